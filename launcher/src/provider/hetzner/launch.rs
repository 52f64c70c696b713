//! Machines on their way: each made by a call of its own, many at the same time, and
//! watched by one list.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use herdsman_wire::{Code, Role};
use serde_json::{Map, Value, json};

use super::super::cloud::{Made, Offer, error, labels};
use super::super::token::Patience;
use super::super::{ClusterRef, Machine, MachineSpec, ProviderError};
use super::answers::{Created, Server};
use super::network::Net;
use super::settings;
use super::{Hetzner, failure};

/// Looks at a list, after which what is missing is asked for by its id, and actions
/// are looked at.
const ROUNDS: u32 = 3;

/// What is the same for all machines of one call.
struct Site<'a> {
    cluster: &'a ClusterRef,
    net: Net,
    image: String,
    keys: Vec<String>,
    /// Types with locations that have none left.
    empty: Mutex<BTreeSet<(String, String)>>,
}

/// A machine that was taken on.
struct Started {
    place: usize,
    attempt: usize,
    server: Server,
    actions: Vec<u64>,
}

/// What is to be made: its place among those asked for, its group, and where among
/// types and locations it is.
#[derive(Clone, Copy)]
struct Todo {
    place: usize,
    group: Option<u64>,
    attempt: usize,
}

type Outcome = Result<Machine, ProviderError>;
type Attempts = BTreeMap<Role, Result<Vec<(String, String)>, ProviderError>>;

impl Hetzner {
    pub(super) async fn make(&self, cluster: &ClusterRef, machines: &[MachineSpec], made: Made<'_>) -> Vec<Outcome> {
        let tags = machines.first().map(|m| m.tags.clone()).unwrap_or_default();
        let ready = async {
            tokio::try_join!(
                self.net(cluster),
                self.image(),
                self.keys(),
                self.groups(cluster, &tags, machines.len())
            )
        };
        let (net, image, keys, groups) = match ready.await {
            Ok(ready) => ready,
            Err(e) => {
                let all: Vec<_> = machines.iter().map(|_| Err(e.clone())).collect();
                all.iter().enumerate().for_each(|(i, r)| made(i, r));
                return all;
            }
        };
        let site = Site {
            cluster,
            net,
            image: image.id,
            keys,
            empty: Mutex::default(),
        };
        let mut attempts = Attempts::new();
        for role in machines.iter().map(|m| m.role).collect::<BTreeSet<_>>() {
            attempts.insert(role, self.attempts(role).await);
        }
        let mut results: Vec<Option<Outcome>> = machines.iter().map(|_| None).collect();
        let todo = groups.into_iter().enumerate();
        let mut todo: Vec<Todo> = todo
            .map(|(place, group)| Todo {
                place,
                group,
                attempt: 0,
            })
            .collect();
        while !todo.is_empty() {
            let work = todo
                .iter()
                .map(|t| self.start(&site, &machines[t.place], &attempts, *t));
            let mut started = Vec::new();
            for (t, outcome) in todo.iter().zip(futures_util::future::join_all(work).await) {
                match outcome {
                    Ok(s) => started.push(s),
                    Err(e) => {
                        let outcome = Err(e);
                        made(t.place, &outcome);
                        results[t.place] = Some(outcome);
                    }
                }
            }
            let mut again = Vec::new();
            for (s, outcome) in self.watch(&site, started, made).await {
                let more = attempts
                    .get(&machines[s.place].role)
                    .and_then(|a| a.as_ref().ok())
                    .map_or(0, Vec::len);
                match outcome {
                    Err(e) if e.code == Code::Capacity && s.attempt + 1 < more => {
                        let group = todo.iter().find(|t| t.place == s.place).and_then(|t| t.group);
                        again.push(Todo {
                            place: s.place,
                            group,
                            attempt: s.attempt + 1,
                        });
                    }
                    Err(e) => {
                        let outcome = Err(e);
                        made(s.place, &outcome);
                        results[s.place] = Some(outcome);
                    }
                    ok => results[s.place] = Some(ok),
                }
            }
            todo = again;
        }
        let missing = || Err(error(Code::Internal, "a machine was forgotten"));
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }

    /// Types and locations in the order in which they are tried.
    async fn attempts(&self, role: Role) -> Result<Vec<(String, String)>, ProviderError> {
        let types = self.types(role).await?;
        let at = |kind: &Offer| {
            let places = self.settings.locations.iter().filter(|l| kind.zones.contains(l));
            places.map(|l| (kind.name.clone(), l.clone())).collect::<Vec<_>>()
        };
        let all: Vec<(String, String)> = types.iter().flat_map(at).collect();
        if all.is_empty() {
            let names: Vec<&str> = types.iter().map(|t| t.name.as_str()).collect();
            let text = format!(
                "{} cannot be had in {}",
                names.join(", "),
                self.settings.locations.join(", ")
            );
            return Err(error(Code::Usage, text).with_hint("herdsman sizes hetzner     shows the types of a location"));
        }
        Ok(all)
    }

    /// Asks for one machine, at the first place that has one.
    async fn start(
        &self,
        site: &Site<'_>,
        spec: &MachineSpec,
        attempts: &Attempts,
        todo: Todo,
    ) -> Result<Started, ProviderError> {
        let attempts = match attempts.get(&spec.role) {
            Some(Ok(all)) => all,
            Some(Err(e)) => return Err(e.clone()),
            None => return Err(error(Code::Internal, "no types for a role")),
        };
        let mut last = error(Code::Capacity, "all types and locations were tried");
        for (attempt, at) in attempts.iter().enumerate().skip(todo.attempt) {
            if site.empty.lock().unwrap_or_else(PoisonError::into_inner).contains(at) && attempt + 1 < attempts.len() {
                continue;
            }
            let (kind, location) = at;
            let body = self.request(site, spec, kind, location, todo.group);
            match self.api.post::<_, Created>("/servers", &body).await {
                Ok(made) => {
                    let actions = [made.action].into_iter().chain(made.next_actions).map(|a| a.id);
                    return Ok(Started {
                        place: todo.place,
                        attempt,
                        actions: actions.collect(),
                        server: made.server,
                    });
                }
                Err(e) if e.code == Code::Conflict => {
                    let server = self
                        .same(site.cluster, spec)
                        .await?
                        .ok_or_else(|| e.during(spec.node.as_str()))?;
                    return Ok(Started {
                        place: todo.place,
                        attempt,
                        server,
                        actions: Vec::new(),
                    });
                }
                Err(e) if e.code == Code::Capacity => {
                    site.empty
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(at.clone());
                    last = e.during(&format!("{kind} in {location}"));
                }
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// The machine of this name, if it is this cluster's: an answer was lost, or a
    /// command interrupted.
    async fn same(&self, cluster: &ClusterRef, spec: &MachineSpec) -> Result<Option<Server>, ProviderError> {
        let found: Vec<Server> = self.api.all("/servers", &[("name", spec.node.as_str())]).await?;
        let ours = |s: &Server| labels::cluster_of(&s.labels).is_some_and(|c| c.id == cluster.id);
        Ok(found.into_iter().find(ours))
    }

    fn request(&self, site: &Site<'_>, spec: &MachineSpec, kind: &str, location: &str, group: Option<u64>) -> Value {
        let (common, own) = (&self.settings.common, &self.settings.own);
        let scheduler = spec.role == Role::Scheduler;
        let mut body = Map::new();
        for (key, value) in &own.extra {
            body.insert(key.clone(), serde_json::to_value(value).unwrap_or_default());
        }
        let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
        put("name", spec.node.as_str().into());
        put("server_type", kind.into());
        put("location", location.into());
        put("image", site.image.as_str().into());
        put("labels", json!(settings::labels(&spec.tags)));
        put("user_data", spec.user_data.reveal().into());
        put("networks", json!([site.net.network]));
        put("start_after_create", true.into());
        let ipv4 = !common.private && (scheduler || own.worker_ipv4);
        let ipv6 = !common.private && own.ipv6;
        put("public_net", json!({"enable_ipv4": ipv4, "enable_ipv6": ipv6}));
        if ipv4 || ipv6 {
            let ours = site.net.entry.filter(|_| scheduler).or(site.net.closed);
            let all = ours.iter().chain(&site.net.others);
            put(
                "firewalls",
                all.map(|id| json!({"firewall": id})).collect::<Vec<_>>().into(),
            );
        }
        if !site.keys.is_empty() {
            put("ssh_keys", json!(site.keys));
        }
        if let Some(group) = group {
            put("placement_group", group.into());
        }
        Value::Object(body)
    }

    /// Names of the user's keys, as the API takes them.
    async fn keys(&self) -> Result<Vec<String>, ProviderError> {
        #[derive(serde::Deserialize)]
        struct Key {
            ssh_key: super::answers::Named,
        }
        let mut names = Vec::new();
        for key in self.settings.ssh_keys() {
            if key.bytes().all(|b| b.is_ascii_digit()) {
                let found: Key = self.api.get(&format!("/ssh_keys/{key}")).await?;
                names.push(found.ssh_key.name);
            } else {
                names.push(key);
            }
        }
        Ok(names)
    }

    /// Waits until all have their address on the cluster's network, by one list for
    /// all of them; what fails on the way is deleted.
    async fn watch(&self, site: &Site<'_>, mut left: Vec<Started>, made: Made<'_>) -> Vec<(Started, Outcome)> {
        let selector = format!("{}=={}", labels::ID, site.cluster.id);
        let mut patience = Patience::long();
        let mut done = Vec::new();
        let mut round = 0;
        loop {
            let mut open = Vec::new();
            for s in left {
                match self.machine(&s.server).filter(|m| m.address.is_some()) {
                    Some(machine) => {
                        let outcome = Ok(machine);
                        made(s.place, &outcome);
                        done.push((s, outcome));
                    }
                    None => open.push(s),
                }
            }
            left = open;
            if left.is_empty() || !patience.goes_on().await {
                break;
            }
            round += 1;
            let known = self
                .api
                .all::<Server>("/servers", &[("label_selector", &selector)])
                .await;
            let known: BTreeMap<u64, Server> = known.unwrap_or_default().into_iter().map(|s| (s.id, s)).collect();
            for s in &mut left {
                if let Some(now) = known.get(&s.server.id) {
                    s.server = now.clone();
                }
            }
            if round >= ROUNDS {
                let failed = self.failed(&left, &known).await;
                let (bad, good) = left.into_iter().partition(|s| failed.contains_key(&s.server.id));
                left = good;
                for s in bad {
                    let e = failed.get(&s.server.id).cloned();
                    // Half made, it would cost something all the same.
                    let gone = self.remove(s.server.id).await;
                    let mut e = e.unwrap_or_else(|| error(Code::Provider, "it could not be made"));
                    e = e.during(&s.server.name);
                    if let Err(left) = gone {
                        e.message += &format!("; it could not be deleted: {}", left.message);
                    }
                    done.push((s, Err(e)));
                }
            }
        }
        for s in left {
            let text = format!("{} has no address on the cluster's network in time", s.server.name);
            done.push((s, Err(error(Code::Deadline, text))));
        }
        done
    }

    /// Which of them failed, by their actions or because they are gone.
    async fn failed(&self, left: &[Started], known: &BTreeMap<u64, Server>) -> BTreeMap<u64, ProviderError> {
        let mut failed = BTreeMap::new();
        let ids: Vec<u64> = left.iter().flat_map(|s| s.actions.iter().copied()).collect();
        if !ids.is_empty()
            && let Ok(actions) = self.api.actions(&ids).await
        {
            for action in actions.iter().filter(|a| a.status == "error") {
                let owner = left.iter().find(|s| s.actions.contains(&action.id));
                if let Some(s) = owner {
                    failed.entry(s.server.id).or_insert_with(|| failure::of_action(action));
                }
            }
        }
        for s in left.iter().filter(|s| !known.contains_key(&s.server.id)) {
            let asked = self.api.get::<Value>(&format!("/servers/{}", s.server.id)).await;
            if let Err(e) = asked
                && e.code == Code::NotFound
            {
                failed.entry(s.server.id).or_insert(e);
            }
        }
        failed
    }
}
