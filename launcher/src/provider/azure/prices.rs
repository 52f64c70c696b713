//! List prices, which anybody may read
//! (<https://learn.microsoft.com/rest/api/cost-management/retail-prices/azure-retail-prices>).

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::ProviderError;
use super::super::cloud::http::{self as calls, Base, query};
use super::super::cloud::{Money, Offer};
use super::Azure;
use super::answers::{Price, Prices};

/// Version of the interface that has spot prices.
const VERSION: &str = "2023-01-01-preview";
/// Longest wait for a page.
const ANSWER: Duration = Duration::from_secs(20);
/// Most pages; a region has some ten thousand prices.
const PAGES: usize = 60;
/// Most types in one question, whose length is limited.
const TYPES: usize = 15;

/// Prices of one type: plain, and of what can be taken away.
type Both = (Option<Money>, Option<Money>);

impl Azure {
    pub(super) async fn sizes_with_prices(&self) -> Result<Vec<Offer>, ProviderError> {
        let (all, prices) = tokio::join!(self.catalogue(), self.prices(&[]));
        let mut offers = all?.offers.clone();
        attach(&mut offers, &prices);
        Ok(offers)
    }

    /// Prices put to types, where they can be had: what a price is of no consequence to
    /// what is made.
    pub(super) async fn with_prices(&self, mut offers: Vec<Offer>) -> Vec<Offer> {
        let names: Vec<&str> = offers.iter().take(TYPES).map(|o| o.name.as_str()).collect();
        let prices = self.prices(&names).await;
        attach(&mut offers, &prices);
        offers
    }

    async fn prices(&self, only: &[&str]) -> BTreeMap<String, Both> {
        let mut found = BTreeMap::new();
        if let Err(e) = self.read_prices(only, &mut found).await {
            tracing::debug!("no prices: {e}");
        }
        found
    }

    async fn read_prices(&self, only: &[&str], found: &mut BTreeMap<String, Both>) -> Result<(), String> {
        let settings = &self.settings;
        let place = settings.endpoint.as_deref().or(settings.cloud.prices);
        let Some(place) = place else { return Ok(()) };
        let base = Base::new(place).map_err(|e| e.message)?;
        let mut filter = format!(
            "serviceName eq 'Virtual Machines' and priceType eq 'Consumption' and armRegionName eq '{}'",
            settings.region
        );
        if !only.is_empty() {
            let names: Vec<String> = only.iter().map(|n| format!("armSkuName eq '{n}'")).collect();
            filter += &format!(" and ({})", names.join(" or "));
        }
        let client = calls::plain().map_err(|e| e.message)?;
        let pairs = [("api-version", VERSION), ("$filter", &filter)];
        let mut url = base.at(&format!("/api/retail/prices{}", query(&pairs)));
        for _ in 0..PAGES {
            let answer = client
                .get(&url)
                .timeout(ANSWER)
                .send()
                .await
                .map_err(|e| e.to_string())?;
            let status = answer.status();
            let body = answer.bytes().await.map_err(|e| e.to_string())?;
            let page: Prices = serde_json::from_slice(&body).map_err(|e| format!("status {status}: {e}"))?;
            page.items.into_iter().for_each(|p| take(p, found));
            match page.next.filter(|n| !n.is_empty()) {
                Some(next) => url = next,
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Takes a price of a machine by the hour, with nothing on it that costs besides.
fn take(p: Price, found: &mut BTreeMap<String, Both>) {
    let is_other = p.product_name.contains("Windows") || p.product_name.contains("CloudServices");
    let is_hourly = p.unit_of_measure == "1 Hour" && p.kind == "Consumption";
    if is_other || !is_hourly || p.retail_price <= 0.0 || p.sku_name.ends_with("Low Priority") {
        return;
    }
    let money = Money {
        per_hour: p.retail_price,
        currency: p.currency_code,
    };
    let both = found.entry(p.arm_sku_name).or_default();
    let place = if p.sku_name.ends_with("Spot") {
        &mut both.1
    } else {
        &mut both.0
    };
    if place.as_ref().is_none_or(|old| money.per_hour < old.per_hour) {
        *place = Some(money);
    }
}

fn attach(offers: &mut [Offer], prices: &BTreeMap<String, Both>) {
    for o in offers {
        if let Some((plain, spot)) = prices.get(&o.name) {
            o.price.clone_from(plain);
            o.spot.clone_from(spot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page as the vendor documents it, shortened.
    const PAGE: &str = r#"{"BillingCurrency":"USD","CustomerEntityId":"Default","CustomerEntityType":"Retail","Items":[
        {"currencyCode":"USD","tierMinimumUnits":0.0,"retailPrice":0.176346,"unitPrice":0.176346,"armRegionName":"westeurope",
         "location":"EU West","effectiveStartDate":"2020-08-01T00:00:00Z","meterId":"000a794b-bdb0-58be-a0cd-0c3a0f222923",
         "meterName":"F16s Spot","productId":"DZH318Z0BQPS","skuId":"DZH318Z0BQPS/00TG","productName":"Virtual Machines FS Series",
         "skuName":"F16s Spot","serviceName":"Virtual Machines","serviceFamily":"Compute","unitOfMeasure":"1 Hour",
         "type":"Consumption","isPrimaryMeterRegion":true,"armSkuName":"Standard_F16s"},
        {"currencyCode":"USD","retailPrice":0.9,"productName":"Virtual Machines FS Series","skuName":"F16s",
         "unitOfMeasure":"1 Hour","type":"Consumption","armSkuName":"Standard_F16s"},
        {"currencyCode":"USD","retailPrice":0.1,"productName":"Virtual Machines FS Series","skuName":"F16s Low Priority",
         "unitOfMeasure":"1 Hour","type":"Consumption","armSkuName":"Standard_F16s"},
        {"currencyCode":"USD","retailPrice":0.2,"productName":"Virtual Machines FS Series Windows","skuName":"F16s",
         "unitOfMeasure":"1 Hour","type":"Consumption","armSkuName":"Standard_F16s"},
        {"currencyCode":"USD","retailPrice":100.0,"productName":"Virtual Machines FS Series","skuName":"F16s",
         "unitOfMeasure":"1 Hour","type":"Reservation","armSkuName":"Standard_F16s"}
        ],"NextPageLink":null,"Count":5}"#;

    #[test]
    fn the_plain_price_by_the_hour_counts() {
        let page: Prices = serde_json::from_str(PAGE).unwrap();
        let mut found = BTreeMap::new();
        page.items.into_iter().for_each(|p| take(p, &mut found));
        let (plain, spot) = &found["Standard_F16s"];
        assert_eq!(plain.as_ref().unwrap(), &Money::usd(0.9));
        assert_eq!(spot.as_ref().unwrap(), &Money::usd(0.176_346));
    }
}
