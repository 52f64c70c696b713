//! What machine types cost: list prices, and spot prices just now. Nothing that is
//! made depends on them, so that they may be missing.

use std::collections::BTreeMap;

use herdsman_wire::Timestamp;
use serde_json::{Value, json};

use super::super::cloud::{Money, Offer};
use super::answers::SpotPrices;
use super::api::{Json, Params};
use super::{Aws, kept};

impl Aws {
    /// Prices put to types, where they can be had: what a price is of no consequence
    /// to what is made.
    pub(super) async fn with_prices(&self, mut offers: Vec<Offer>, spot: bool) -> Vec<Offer> {
        let names: Vec<String> = offers.iter().map(|o| o.name.clone()).collect();
        let fixed = async {
            if let Some(list) = kept::read(&self.settings, Timestamp::now()) {
                return list;
            }
            // The whole list takes many seconds; a few types of it one.
            let one = |n: &String| {
                let name = n.clone();
                async move { self.prices(Some(&name)).await.0 }
            };
            let each = futures_util::future::join_all(names.iter().map(one)).await;
            each.into_iter().flatten().collect()
        };
        let changing = async {
            if spot {
                self.spot_prices(&names).await
            } else {
                BTreeMap::new()
            }
        };
        let (fixed, changing) = tokio::join!(fixed, changing);
        attach(&mut offers, &fixed, &changing);
        offers
    }

    /// List prices of all types: kept ones, as long as they are good.
    pub(super) async fn list_prices(&self) -> BTreeMap<String, f64> {
        let now = Timestamp::now();
        if let Some(list) = kept::read(&self.settings, now) {
            return list;
        }
        let (list, whole) = self.prices(None).await;
        if whole && !list.is_empty() {
            kept::write(&self.settings, now, &list);
        }
        list
    }

    /// List prices by type, of one or of all, and whether these are all; those that
    /// cannot be had are absent.
    async fn prices(&self, only: Option<&str>) -> (BTreeMap<String, f64>, bool) {
        let mut filters = vec![
            ("regionCode", self.settings.region.as_str()),
            ("operatingSystem", "Linux"),
            ("tenancy", "Shared"),
            ("preInstalledSw", "NA"),
            ("capacitystatus", "Used"),
            ("marketoption", "OnDemand"),
        ];
        filters.extend(only.map(|t| ("instanceType", t)));
        let filters: Vec<Value> = filters
            .iter()
            .map(|(field, value)| json!({"Type": "TERM_MATCH", "Field": field, "Value": value}))
            .collect();
        let mut all = BTreeMap::new();
        let mut body = json!({"ServiceCode": "AmazonEC2", "FormatVersion": "aws_v1", "Filters": filters});
        loop {
            let page = match self.api.json(Json::Prices, "GetProducts", &body).await {
                Ok(page) => page,
                Err(e) => {
                    tracing::debug!("no prices: {}", e.message);
                    return (all, false);
                }
            };
            all.extend(page["PriceList"].as_array().into_iter().flatten().filter_map(price));
            match page["NextToken"].as_str() {
                Some(token) if !token.is_empty() => body["NextToken"] = token.into(),
                _ => return (all, true),
            }
        }
    }

    /// The lowest spot price of each type just now, in the zones of the settings.
    pub(super) async fn spot_prices(&self, names: &[String]) -> BTreeMap<String, f64> {
        let zones = self.settings.zones();
        let mut lowest: BTreeMap<String, f64> = BTreeMap::new();
        let mut next: Option<String> = None;
        loop {
            let mut params = Params::default();
            params.list("InstanceType", names);
            params.list("ProductDescription", ["Linux/UNIX"]);
            params.put("StartTime", Timestamp::now());
            if let Some(token) = next {
                params.put("NextToken", token);
            }
            let page: SpotPrices = match self.api.ec2("DescribeSpotPriceHistory", &params).await {
                Ok(page) => page,
                Err(e) => {
                    tracing::debug!("no spot prices: {}", e.message);
                    return lowest;
                }
            };
            for p in page.spot_price_history_set.item {
                let Ok(price) = p.spot_price.parse::<f64>() else {
                    continue;
                };
                if zones.is_empty() || zones.contains(&p.availability_zone) {
                    let low = lowest.entry(p.instance_type).or_insert(price);
                    *low = low.min(price);
                }
            }
            next = page.next_token.filter(|t| !t.is_empty());
            if next.is_none() {
                return lowest;
            }
        }
    }
}

pub(super) fn attach(offers: &mut [Offer], prices: &BTreeMap<String, f64>, spot: &BTreeMap<String, f64>) {
    for o in offers {
        o.price = prices.get(&o.name).copied().map(Money::usd);
        o.spot = spot.get(&o.name).copied().map(Money::usd);
    }
}

/// One entry of a price list, which is a document in a text.
fn price(entry: &Value) -> Option<(String, f64)> {
    let product: Value = match entry {
        Value::String(text) => serde_json::from_str(text).ok()?,
        other => other.clone(),
    };
    let name = product["product"]["attributes"]["instanceType"].as_str()?.to_owned();
    let term = product["terms"]["OnDemand"].as_object()?.values().next()?;
    let dimension = term["priceDimensions"].as_object()?.values().next()?;
    let usd: f64 = dimension["pricePerUnit"]["USD"].as_str()?.parse().ok()?;
    (usd > 0.0).then_some((name, usd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_found_in_an_entry() {
        let entry = json!({
            "product": {"attributes": {"instanceType": "m7i.large", "regionCode": "eu-west-1"}},
            "terms": {"OnDemand": {"A.B": {"priceDimensions": {"A.B.C": {
                "unit": "Hrs", "pricePerUnit": {"USD": "0.1123000000"}}}}}},
        });
        assert_eq!(price(&entry.to_string().into()), Some(("m7i.large".into(), 0.1123)));
        assert_eq!(price(&json!("{}")), None);
        let free = entry.to_string().replace("0.1123000000", "0.0000000000");
        assert_eq!(price(&free.into()), None);
    }
}
