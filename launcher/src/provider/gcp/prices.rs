//! Prices from the vendor's public catalogue
//! (<https://cloud.google.com/billing/docs/reference/rest/v1/services.skus/list>). It
//! has no prices of machine types: a type's price is that of its processors, its
//! memory and its graphics processors, which are found by the words of an entry.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::super::ProviderError;
use super::super::cloud::{Money, Offer};
use super::Gcp;
use super::api::Service;

/// Compute Engine in the catalogue.
const SERVICE: &str = "6F81-5844-456A";
/// The catalogue is long; whoever waits for a price does not wait for longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most pages that are read.
const PAGES: usize = 40;

/// What is sold by itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// A processor of a family, an hour.
    Core(String),
    /// A GiB of a family, an hour.
    Memory(String),
    /// A graphics processor, an hour.
    Gpu(String),
}

/// Prices of parts; the second is of those that can be taken away.
pub(super) type Prices = BTreeMap<(String, bool), f64>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Skus {
    skus: Vec<Sku>,
    next_page_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Sku {
    description: String,
    category: Category,
    service_regions: Vec<String>,
    pricing_info: Vec<Pricing>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Category {
    usage_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Pricing {
    pricing_expression: Expression,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Expression {
    usage_unit: String,
    tiered_rates: Vec<Rate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rate {
    unit_price: Amount,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Amount {
    units: String,
    nanos: f64,
}

impl Part {
    fn key(&self) -> String {
        match self {
            Self::Core(family) => format!("core {family}"),
            Self::Memory(family) => format!("memory {family}"),
            Self::Gpu(kind) => format!("gpu {kind}"),
        }
    }
}

impl Gcp {
    /// Prices put to types, where they can be had: what a price is of no consequence to
    /// what is made.
    pub(super) async fn with_prices(&self, mut offers: Vec<Offer>) -> Vec<Offer> {
        let prices = self.prices.get_or_init(|| self.find_prices()).await;
        for o in &mut offers {
            o.price = price_of(o, prices, false).map(Money::usd);
            o.spot = price_of(o, prices, true).map(Money::usd);
        }
        offers
    }

    async fn find_prices(&self) -> Prices {
        match tokio::time::timeout(PATIENCE, self.read_prices()).await {
            Ok(Ok(prices)) => prices,
            Ok(Err(e)) => {
                tracing::debug!("no prices: {}", e.message);
                Prices::new()
            }
            Err(_) => {
                tracing::debug!("no prices: the catalogue takes too long");
                Prices::new()
            }
        }
    }

    async fn read_prices(&self) -> Result<Prices, ProviderError> {
        let mut prices = Prices::new();
        let mut next = String::new();
        for _ in 0..PAGES {
            let mut pairs = vec![("currencyCode", "USD"), ("pageSize", "5000")];
            if !next.is_empty() {
                pairs.push(("pageToken", &next));
            }
            let query = super::super::cloud::http::query(&pairs);
            let path = format!("/v1/services/{SERVICE}/skus{query}");
            let page: Skus = self
                .api
                .other(Service::Billing, "services.skus.list", &path, None)
                .await?;
            for sku in page
                .skus
                .iter()
                .filter(|s| s.service_regions.contains(&self.settings.region))
            {
                if let Some((part, spot, price)) = read(sku) {
                    prices.insert((part.key(), spot), price);
                }
            }
            next = page.next_page_token;
            if next.is_empty() {
                break;
            }
        }
        Ok(prices)
    }
}

/// What an entry is the price of.
fn read(sku: &Sku) -> Option<(Part, bool, f64)> {
    let spot = match sku.category.usage_type.as_str() {
        "OnDemand" => false,
        "Preemptible" => true,
        _ => return None,
    };
    let expression = &sku.pricing_info.last()?.pricing_expression;
    let amount = &expression.tiered_rates.first()?.unit_price;
    let price = amount.units.parse::<f64>().unwrap_or(0.0) + amount.nanos / 1e9;
    let text = sku.description.strip_prefix("Spot ").unwrap_or(&sku.description);
    let text = text.strip_prefix("Preemptible ").unwrap_or(text);
    let (what, _) = text
        .split_once(" running in ")
        .or_else(|| text.split_once(" attached to "))?;
    let words: Vec<&str> = what.split(' ').collect();
    let part = match (words.as_slice(), expression.usage_unit.as_str()) {
        (["Nvidia", "Tesla", kind @ .., "GPU"], "h") => {
            Part::Gpu(format!("nvidia-tesla-{}", kind.join("-").to_lowercase()))
        }
        (["Nvidia", kind @ .., "GPU"], "h") => Part::Gpu(format!("nvidia-{}", kind.join("-").to_lowercase())),
        ([family @ .., "Core"], "h") => Part::Core(family_of(family)?),
        ([family @ .., "Ram"], "GiBy.h") => Part::Memory(family_of(family)?),
        _ => return None,
    };
    (price > 0.0).then_some((part, spot, price))
}

/// The family in an entry's words; absent for what is sold in another way: to measure,
/// on a host of one's own, reserved.
fn family_of(words: &[&str]) -> Option<String> {
    let words = words.strip_suffix(&["Instance"]).unwrap_or(words);
    match words {
        ["Compute", "optimized"] => Some("c2".into()),
        [family] | [family, "Predefined" | "AMD" | "Arm"] => {
            let of = |b: u8| b.is_ascii_alphanumeric();
            let is_family = family.len() <= 4 && family.bytes().all(of) && family.bytes().any(|b| b.is_ascii_digit());
            is_family.then(|| family.to_lowercase())
        }
        _ => None,
    }
}

fn price_of(o: &Offer, prices: &Prices, spot: bool) -> Option<f64> {
    let of = |part: Part| prices.get(&(part.key(), spot)).copied();
    let family = o.name.split('-').next()?.to_owned();
    // Parts of a processor are sold as such.
    let cores = match o.name.as_str() {
        "e2-micro" => 0.25,
        "e2-small" => 0.5,
        "e2-medium" => 1.0,
        "f1-micro" | "g1-small" => return None,
        _ => f64::from(o.cpus),
    };
    #[expect(clippy::cast_precision_loss, reason = "a memory has fewer bytes than that")]
    let memory = o.memory as f64 / f64::from(1 << 30);
    let mut sum = cores * of(Part::Core(family.clone()))? + memory * of(Part::Memory(family))?;
    if o.gpus > 0 {
        let kind = o.gpu.as_deref()?;
        let without = kind.replace("nvidia-tesla-", "nvidia-");
        let with = without.replace("nvidia-", "nvidia-tesla-");
        let each = [kind.to_owned(), without, with]
            .into_iter()
            .find_map(|k| of(Part::Gpu(k)))?;
        sum += f64::from(o.gpus) * each;
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sku(description: &str, usage: &str, unit: &str, nanos: u64) -> Sku {
        let text = serde_json::json!({
            "name": "services/6F81-5844-456A/skus/CF4E-A0C7-E3BF", "skuId": "CF4E-A0C7-E3BF",
            "description": description,
            "category": {"serviceDisplayName": "Compute Engine", "resourceFamily": "Compute",
                "resourceGroup": "CPU", "usageType": usage},
            "serviceRegions": ["europe-west4"],
            "pricingInfo": [{"summary": "", "pricingExpression": {"usageUnit": unit, "displayQuantity": 1,
                "tieredRates": [{"startUsageAmount": 0, "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": nanos}}]}}],
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn entries_are_told_apart() {
        let part = |text: &str, usage, unit| read(&sku(text, usage, unit, 1000)).map(|(p, spot, _)| (p.key(), spot));
        let some = |k: &str, spot| Some((k.to_owned(), spot));
        assert_eq!(
            part("E2 Instance Core running in Netherlands", "OnDemand", "h"),
            some("core e2", false)
        );
        assert_eq!(
            part("E2 Instance Ram running in Netherlands", "OnDemand", "GiBy.h"),
            some("memory e2", false)
        );
        let spot = "Spot Preemptible N2D AMD Instance Core running in Netherlands";
        assert_eq!(part(spot, "Preemptible", "h"), some("core n2d", true));
        assert_eq!(
            part("N1 Predefined Instance Core running in EMEA", "OnDemand", "h"),
            some("core n1", false)
        );
        assert_eq!(
            part("Compute optimized Core running in EMEA", "OnDemand", "h"),
            some("core c2", false)
        );
        let gpu = "Nvidia Tesla T4 GPU running in Netherlands";
        assert_eq!(part(gpu, "OnDemand", "h"), some("gpu nvidia-tesla-t4", false));
        for other in [
            "N2 Custom Instance Core running in Netherlands",
            "N2 Sole Tenancy Instance Core running in Netherlands",
            "Licensing Fee for Windows Server 2022 (CPU cost)",
        ] {
            assert_eq!(part(other, "OnDemand", "h"), None, "{other}");
        }
        let commitment = "Commitment v1: E2 Cpu in Netherlands for 1 Year";
        assert_eq!(part(commitment, "Commit1Yr", "h"), None);
    }

    #[test]
    fn a_type_costs_what_its_parts_cost() {
        let mut prices = Prices::new();
        for entry in [
            sku(
                "N1 Predefined Instance Core running in EMEA",
                "OnDemand",
                "h",
                30_000_000,
            ),
            sku(
                "N1 Predefined Instance Ram running in EMEA",
                "OnDemand",
                "GiBy.h",
                4_000_000,
            ),
            sku("Nvidia Tesla T4 GPU running in EMEA", "OnDemand", "h", 350_000_000),
        ] {
            let (part, spot, price) = read(&entry).unwrap();
            prices.insert((part.key(), spot), price);
        }
        let mut o = Offer {
            name: "n1-standard-4".into(),
            arch: "x86_64".into(),
            cpus: 4,
            memory: 15 << 30,
            gpus: 0,
            gpu: None,
            price: None,
            spot: None,
            zones: Vec::new(),
            current: true,
            rank: 0,
        };
        let near = |a: Option<f64>, b: f64| a.is_some_and(|a| (a - b).abs() < 1e-9);
        assert!(near(price_of(&o, &prices, false), 0.18));
        assert_eq!(price_of(&o, &prices, true), None);
        (o.gpus, o.gpu) = (2, Some("nvidia-tesla-t4".into()));
        assert!(near(price_of(&o, &prices, false), 0.88));
        o.name = "e2-standard-4".into();
        assert_eq!(price_of(&o, &prices, false), None);
    }
}
