//! The price list of a region, kept in the state folder for a day: it has a dozen
//! pages, of which each takes a second, and rarely changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use herdsman_wire::Timestamp;
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::config::state_dir;
use crate::files;

/// How long a list is good.
const GOOD: Duration = Duration::from_secs(24 * 3600);

/// The file.
#[derive(Debug, Deserialize, Serialize)]
struct List {
    /// When it was asked for.
    at: Timestamp,
    /// Of whom, where it was not the vendor.
    endpoint: Option<String>,
    /// Dollars an hour by type.
    prices: BTreeMap<String, f64>,
}

fn file(settings: &Settings) -> Option<PathBuf> {
    // The region is letters, digits and dashes.
    let name = format!("aws-prices-{}.json", settings.region);
    Some(state_dir(&settings.common.env).ok()?.join("cache").join(name))
}

/// The list, where there is one that is good at this time. One that cannot be read is
/// none.
pub(super) fn read(settings: &Settings, now: Timestamp) -> Option<BTreeMap<String, f64>> {
    let bytes = files::read(&file(settings)?).ok()??;
    let list: List = serde_json::from_slice(&bytes).ok()?;
    // A list of the future is one of a clock that was wrong.
    let good = list.at <= now && now.since(list.at) < GOOD && list.endpoint == settings.endpoint;
    good.then_some(list.prices)
}

/// Keeps a whole list. What cannot be kept is asked for again.
pub(super) fn write(settings: &Settings, now: Timestamp, prices: &BTreeMap<String, f64>) {
    let Some(path) = file(settings) else { return };
    let list = List {
        at: now,
        endpoint: settings.endpoint.clone(),
        prices: prices.clone(),
    };
    let done = path
        .parent()
        .map_or(Ok(()), files::make_dir)
        .and_then(|()| files::write(&path, &serde_json::to_vec(&list).unwrap_or_default()));
    if let Err(e) = done {
        tracing::debug!("prices are not kept: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Env;
    use crate::provider::cloud::Common;

    #[test]
    fn a_list_is_good_for_a_day_and_for_whom_it_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().to_str().unwrap();
        let settings = |endpoint: Option<&str>| {
            let endpoint = endpoint.map(|e| ("HERDSMAN_AWS_ENDPOINT", e));
            let env: Env = [("HERDSMAN_STATE_DIR", state)].into_iter().chain(endpoint).collect();
            Settings::new(Common {
                env,
                ..Common::default()
            })
            .unwrap()
        };
        let now = Timestamp::now();
        let prices = BTreeMap::from([("t3.large".to_owned(), 0.0832)]);
        assert_eq!(read(&settings(None), now), None);
        write(&settings(None), now, &prices);
        assert_eq!(read(&settings(None), now), Some(prices));
        assert_eq!(read(&settings(None), now.plus(GOOD)), None);
        assert_eq!(read(&settings(None), now.minus(GOOD)), None);
        assert_eq!(read(&settings(Some("http://127.0.0.1:1")), now), None);
        std::fs::write(file(&settings(None)).unwrap(), "{").unwrap();
        assert_eq!(read(&settings(None), now), None);
    }
}
