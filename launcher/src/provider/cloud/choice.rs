//! Which machine type: exact names as they were given, or the cheapest that is
//! large enough, from the live catalogue.

use herdsman_wire::Code;

use super::{MachineWish, Offer, ProviderError, error};

/// Types that are tried after the first, when its zone has none left.
const ALTERNATIVES: usize = 4;

/// What a machine must have.
#[derive(Clone, Debug)]
pub struct Need<'a> {
    /// As it was asked for.
    pub wish: &'a MachineWish,
    /// Where nothing was: processors.
    pub cpus: u32,
    /// Where nothing was: bytes.
    pub memory: u64,
    /// Architectures that the agent and the image are for.
    pub archs: &'a [&'a str],
    /// For messages: `scheduler` or `workers`.
    pub what: &'a str,
    /// Whether the price of what can be taken away counts.
    pub spot: bool,
}

/// Types in the order in which they are to be tried; never empty.
///
/// # Errors
/// `E-USAGE` naming types that do not exist, with the nearest that do; `E-CAPACITY`
/// when nothing in the catalogue is large enough.
pub fn choose(offers: &[Offer], need: &Need<'_>) -> Result<Vec<Offer>, ProviderError> {
    if !need.wish.types.is_empty() {
        return need.wish.types.iter().map(|t| named(offers, t, need)).collect();
    }
    let cpus = need.wish.cpus.unwrap_or(need.cpus);
    let memory = need.wish.memory.unwrap_or(need.memory);
    let gpus = &need.wish.gpus;
    let fits = |o: &&Offer| {
        o.current
            && o.cpus >= cpus
            && o.memory >= memory
            && need.archs.contains(&o.arch.as_str())
            && if gpus.count == 0 {
                o.gpus == 0
            } else {
                o.gpus >= gpus.count
            }
            && gpus.kind.as_ref().is_none_or(|kind| {
                o.gpu
                    .as_ref()
                    .is_some_and(|g| g.to_ascii_lowercase().contains(&kind.to_ascii_lowercase()))
            })
    };
    let mut found: Vec<&Offer> = offers.iter().filter(fits).collect();
    found.sort_by(|a, b| {
        let price = |o: &Offer| {
            let spot = o.spot.as_ref().filter(|_| need.spot);
            spot.or(o.price.as_ref()).map_or(f64::INFINITY, |m| m.per_hour)
        };
        price(a).total_cmp(&price(b)).then_with(|| {
            let size = |o: &Offer| (o.gpus, o.cpus, o.memory, o.rank);
            (size(a), &a.name).cmp(&(size(b), &b.name))
        })
    });
    if found.is_empty() {
        let mut text = format!("no machine type has {cpus} processors and {} GiB", memory >> 30);
        if gpus.count > 0 {
            let kind = gpus.kind.as_deref().unwrap_or("any");
            text += &format!(" and {} graphics processors ({kind})", gpus.count);
        }
        let e = error(Code::Capacity, format!("{}: {text} here", need.what));
        return Err(ProviderError { retryable: false, ..e }
            .with_hint("herdsman sizes             shows what there is")
            .with_hint("herdsman sizes --region R  shows what there is elsewhere"));
    }
    Ok(found.into_iter().take(1 + ALTERNATIVES).cloned().collect())
}

fn named(offers: &[Offer], name: &str, need: &Need<'_>) -> Result<Offer, ProviderError> {
    if let Some(offer) = offers.iter().find(|o| o.name == name) {
        if need.archs.contains(&offer.arch.as_str()) {
            return Ok(offer.clone());
        }
        return Err(error(
            Code::Usage,
            format!(
                "{}: type {name} is {}; there is an agent for {}",
                need.what,
                offer.arch,
                need.archs.join(", ")
            ),
        ));
    }
    let close = crate::config::error::nearest(name, offers.iter().map(|o| o.name.as_str()));
    let like = close.map_or_else(String::new, |n| format!(" (did you mean {n}?)"));
    Err(error(
        Code::Usage,
        format!("{}: there is no machine type {name} here{like}", need.what),
    )
    .with_hint("herdsman sizes             shows what there is"))
}

#[cfg(test)]
mod tests {
    use super::super::Money;
    use super::*;

    fn offer(name: &str, cpus: u32, gib: u64, price: Option<f64>) -> Offer {
        Offer {
            name: name.into(),
            arch: "x86_64".into(),
            cpus,
            memory: gib << 30,
            gpus: 0,
            gpu: None,
            price: price.map(Money::usd),
            spot: None,
            zones: Vec::new(),
            current: true,
            rank: 0,
        }
    }

    fn pick(offers: &[Offer], wish: &MachineWish) -> Result<Vec<String>, ProviderError> {
        let need = Need {
            wish,
            cpus: 2,
            memory: 4 << 30,
            archs: &["x86_64"],
            what: "workers",
            spot: false,
        };
        choose(offers, &need).map(|all| all.into_iter().map(|o| o.name).collect())
    }

    #[test]
    fn the_cheapest_that_is_large_enough_comes_first() {
        let mut gpu = offer("g", 8, 32, Some(0.01));
        (gpu.gpus, gpu.gpu) = (1, Some("NVIDIA T4".into()));
        let mut old = offer("old", 4, 16, Some(0.001));
        old.current = false;
        let mut arm = offer("arm", 4, 16, Some(0.001));
        arm.arch = "aarch64".into();
        let all = [
            offer("small", 1, 2, Some(0.01)),
            offer("dear", 4, 16, Some(0.3)),
            offer("cheap", 2, 8, Some(0.1)),
            offer("unpriced", 2, 4, None),
            gpu,
            old,
            arm,
        ];
        assert_eq!(
            pick(&all, &MachineWish::default()).unwrap(),
            ["cheap", "dear", "unpriced"]
        );
        let mut wish = MachineWish {
            cpus: Some(3),
            ..MachineWish::default()
        };
        assert_eq!(pick(&all, &wish).unwrap(), ["dear"]);
        wish.gpus = super::super::Gpus {
            count: 1,
            kind: Some("t4".into()),
        };
        assert_eq!(pick(&all, &wish).unwrap(), ["g"]);
        wish.gpus.count = 9;
        assert_eq!(pick(&all, &wish).unwrap_err().code, Code::Capacity);
        wish.types = vec!["dear".into(), "small".into()];
        assert_eq!(pick(&all, &wish).unwrap(), ["dear", "small"]);
        wish.types = vec!["arm".into()];
        assert!(pick(&all, &wish).unwrap_err().message.contains("aarch64"));
        wish.types = vec!["chep".into()];
        assert!(pick(&all, &wish).unwrap_err().message.contains("did you mean cheap"));
    }
}
