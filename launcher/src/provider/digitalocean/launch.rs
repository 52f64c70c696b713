//! Machines on their way: up to ten made by one call, and watched by one list.

use std::collections::{BTreeMap, BTreeSet};

use herdsman_wire::{Code, Role};
use http::Method;
use serde_json::{Map, Value, json};

use super::super::cloud::http::json as answer;
use super::super::cloud::{Made, Offer, error};
use super::super::token::Patience;
use super::super::{ClusterRef, Machine, MachineSpec, ProviderError};
use super::answers::{Created, Droplet, OneAction, OneDroplet};
use super::machines::DROPLETS;
use super::network::{Net, of_machine};
use super::{DigitalOcean, tags};

/// Most droplets of one call.
const AT_ONCE: usize = 10;
/// Looks at a list, after which actions are looked at, and what is missing is asked
/// for by its id.
pub(super) const ROUNDS: u32 = 3;

/// What is the same for all machines of one call.
struct Site<'a> {
    cluster: &'a ClusterRef,
    machines: &'a [MachineSpec],
    net: Net,
    image: Value,
    keys: Vec<u64>,
}

/// A machine that was taken on.
struct Started {
    place: usize,
    droplet: Droplet,
    action: Option<u64>,
    /// Type that it has, among those that are tried.
    attempt: usize,
}

type Outcome = Result<Machine, ProviderError>;
type Types = BTreeMap<Role, Result<Vec<Offer>, ProviderError>>;
/// What became of each that a call was to make.
type Fates = Vec<(usize, Result<Started, ProviderError>)>;

impl DigitalOcean {
    pub(super) async fn make(&self, cluster: &ClusterRef, machines: &[MachineSpec], made: Made<'_>) -> Vec<Outcome> {
        let ready = async { tokio::try_join!(self.net(cluster), self.image(), self.keys()) };
        let (net, image, keys) = match ready.await {
            Ok(ready) => ready,
            Err(e) => return all_failed(machines, &e, made),
        };
        let site = Site {
            cluster,
            machines,
            image: image.id,
            keys,
            net,
        };
        let mut types = Types::new();
        for role in machines.iter().map(|m| m.role).collect::<BTreeSet<_>>() {
            types.insert(role, self.types(role).await);
        }
        let mut results: Vec<Option<Outcome>> = machines.iter().map(|_| None).collect();
        let mut started = match self.existing(&site).await {
            Ok(there) => there,
            Err(e) => return all_failed(machines, &e, made),
        };
        let known: BTreeSet<usize> = started.iter().map(|s| s.place).collect();
        let mut todo: Vec<(usize, usize)> = (0..machines.len())
            .filter(|p| !known.contains(p))
            .map(|p| (p, 0))
            .collect();
        loop {
            let batches = batches(machines, &todo);
            let work = batches
                .iter()
                .map(|(attempt, places)| self.batch(&site, &types, *attempt, places.clone()));
            for (place, fate) in futures_util::future::join_all(work).await.into_iter().flatten() {
                match fate {
                    Ok(s) => started.push(s),
                    Err(e) => tell(&mut results, place, Err(e), made),
                }
            }
            todo = Vec::new();
            for (s, outcome) in self.watch(started, made).await {
                let more = types
                    .get(&machines[s.place].role)
                    .and_then(|t| t.as_ref().ok())
                    .map_or(0, Vec::len);
                match outcome {
                    Err(e) if e.code == Code::Capacity && s.attempt + 1 < more => {
                        tracing::debug!(size = s.droplet.size_slug, "none left: {}", e.message);
                        todo.push((s.place, s.attempt + 1));
                    }
                    Err(e) => tell(&mut results, s.place, Err(e), made),
                    ok => results[s.place] = Some(ok),
                }
            }
            started = Vec::new();
            if todo.is_empty() {
                break;
            }
        }
        let missing = || Err(error(Code::Internal, "a machine was forgotten"));
        results.into_iter().map(|r| r.unwrap_or_else(missing)).collect()
    }

    /// Machines of these names that an interrupted command made already.
    async fn existing(&self, site: &Site<'_>) -> Result<Vec<Started>, ProviderError> {
        if site.net.fresh {
            return Ok(Vec::new());
        }
        let there = self.droplets().await?;
        let of_ours = there.into_iter().filter(|d| self.is_of(site.cluster, d));
        let places = of_ours.filter_map(|droplet| {
            let place = site.machines.iter().position(|m| m.node.as_str() == droplet.name)?;
            Some(Started {
                place,
                droplet,
                action: None,
                attempt: 0,
            })
        });
        Ok(places.collect())
    }

    fn is_of(&self, cluster: &ClusterRef, droplet: &Droplet) -> bool {
        tags::read(&droplet.name, &droplet.tags).is_some_and(|(c, _)| c.id == cluster.id)
    }

    /// Makes machines of one kind, of the first type that there is.
    async fn batch(&self, site: &Site<'_>, types: &Types, attempt: usize, mut places: Vec<usize>) -> Fates {
        let role = site.machines[places[0]].role;
        let types = match types.get(&role) {
            Some(Ok(types)) => types,
            Some(Err(e)) => return places.into_iter().map(|p| (p, Err(e.clone()))).collect(),
            None => return Vec::new(),
        };
        let mut fates = Fates::new();
        let mut last = error(Code::Capacity, "all sizes were tried");
        for (attempt, kind) in types.iter().enumerate().skip(attempt) {
            match self.run(site, &places, &kind.name).await {
                Ok(made) => {
                    for (place, droplet, action) in made {
                        places.retain(|p| *p != place);
                        let s = Started {
                            place,
                            droplet,
                            action,
                            attempt,
                        };
                        fates.push((place, Ok(s)));
                    }
                    if places.is_empty() {
                        return fates;
                    }
                    last = error(
                        Code::Capacity,
                        format!("the vendor made fewer of {} than it was asked for", kind.name),
                    );
                }
                Err(e) if e.code == Code::Capacity => last = e.during(&kind.name),
                Err(e) => {
                    last = e;
                    break;
                }
            }
        }
        fates.extend(places.into_iter().map(|p| (p, Err(last.clone()))));
        fates
    }

    /// One call. There is no key that makes a repetition harmless, so that after an
    /// answer was lost the list tells what was made.
    async fn run(
        &self,
        site: &Site<'_>,
        places: &[usize],
        size: &str,
    ) -> Result<Vec<(usize, Droplet, Option<u64>)>, ProviderError> {
        let place_of = |name: &str| places.iter().copied().find(|p| site.machines[*p].node.as_str() == name);
        let mut tries = 0;
        let mut left: Vec<usize> = places.to_vec();
        let mut found = Vec::new();
        loop {
            tries += 1;
            let body = self.request(site, &left, size);
            let e = match self.api.once(Method::POST, DROPLETS, &body).await {
                Ok(reply) => {
                    let made: Created = answer("POST /v2/droplets", &reply)?;
                    let mut actions = made.links.actions.into_iter().map(|l| l.id);
                    for droplet in made.droplets {
                        if let Some(place) = place_of(&droplet.name) {
                            found.push((place, droplet, actions.next()));
                        }
                    }
                    return Ok(found);
                }
                Err(e) => e,
            };
            if !matches!(e.code, Code::Unreachable | Code::Deadline | Code::Provider) || tries > 2 {
                return if found.is_empty() { Err(e) } else { Ok(found) };
            }
            let mut patience = Patience::short();
            let mut looks = 0;
            // Made or not: that is known when a list had time to show it.
            while looks < 2 * ROUNDS && patience.goes_on().await {
                looks += 1;
                let there = self.droplets().await.unwrap_or_default();
                for droplet in there.into_iter().filter(|d| self.is_of(site.cluster, d)) {
                    let place = place_of(&droplet.name).filter(|p| left.contains(p));
                    if let Some(place) = place {
                        left.retain(|p| *p != place);
                        found.push((place, droplet, None));
                    }
                }
                if left.is_empty() {
                    return Ok(found);
                }
            }
        }
    }

    fn request(&self, site: &Site<'_>, places: &[usize], size: &str) -> Value {
        let (common, own) = (&self.settings.common, &self.settings.own);
        let spec = &site.machines[places[0]];
        let names: Vec<&str> = places.iter().map(|p| site.machines[*p].node.as_str()).collect();
        let mut body = Map::new();
        for (key, value) in &own.extra {
            body.insert(key.clone(), serde_json::to_value(value).unwrap_or_default());
        }
        let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
        put("names", json!(names));
        put("region", self.settings.region.as_str().into());
        put("size", size.into());
        put("image", site.image.clone());
        put(
            "tags",
            json!(of_machine(site.cluster, spec.role, &spec.tags, &site.net)),
        );
        put("user_data", spec.user_data.reveal().into());
        put("monitoring", own.monitoring.into());
        put("ipv6", (own.ipv6 && !common.private).into());
        if common.private {
            put("public_networking", false.into());
        }
        if !site.keys.is_empty() {
            put("ssh_keys", json!(site.keys));
        }
        if let Some(vpc) = &site.net.vpc {
            put("vpc_uuid", vpc.as_str().into());
        }
        if let Some(agent) = own.droplet_agent {
            put("with_droplet_agent", agent.into());
        }
        Value::Object(body)
    }

    /// Waits until all have their address on the VPC; what fails on the way is
    /// deleted.
    async fn watch(&self, mut left: Vec<Started>, made: Made<'_>) -> Vec<(Started, Outcome)> {
        let mut patience = Patience::long();
        let mut done = Vec::new();
        let mut round = 0;
        loop {
            let mut open = Vec::new();
            for s in left {
                match self.machine(&s.droplet).filter(|m| m.address.is_some()) {
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
            let known = self.droplets().await.unwrap_or_default();
            let known: BTreeMap<u64, Droplet> = known.into_iter().map(|d| (d.id, d)).collect();
            for s in &mut left {
                if let Some(now) = known.get(&s.droplet.id) {
                    s.droplet = now.clone();
                }
            }
            if round % ROUNDS == 0 {
                let looks = left.iter().map(|s| self.is_lost(s, known.contains_key(&s.droplet.id)));
                let lost = futures_util::future::join_all(looks).await;
                let mut good = Vec::new();
                for (s, lost) in left.into_iter().zip(lost) {
                    if !lost {
                        good.push(s);
                        continue;
                    }
                    let text = format!("{} could not be made, and the vendor does not say why", s.droplet.name);
                    let mut e = error(Code::Capacity, text);
                    // Half made, it would cost something all the same.
                    if let Err(left) = self.remove(s.droplet.id).await {
                        e.message += &format!("; it could not be deleted: {}", left.message);
                    }
                    done.push((s, Err(e)));
                }
                left = good;
            }
        }
        for s in left {
            let text = format!("{} has no address on the VPC in time", s.droplet.name);
            let outcome =
                Err(error(Code::Deadline, text).with_hint(format!("--region other than {}", self.settings.region)));
            done.push((s, outcome));
        }
        done
    }

    /// Whether it will never be: its action says so, or there is no such thing.
    async fn is_lost(&self, s: &Started, listed: bool) -> bool {
        if let Some(action) = s.action {
            let asked: Result<OneAction, _> = self.api.get(&format!("/v2/actions/{action}")).await;
            // The links of a call for several are in no order that is promised.
            let own = |id: Option<u64>| id.is_none_or(|id| id == s.droplet.id);
            if asked.is_ok_and(|a| a.action.status == "errored" && own(a.action.resource_id)) {
                return true;
            }
        }
        if listed {
            return false;
        }
        let asked: Result<OneDroplet, _> = self.api.get(&format!("{DROPLETS}/{}", s.droplet.id)).await;
        asked.is_err_and(|e| e.code == Code::NotFound)
    }
}

fn tell(results: &mut [Option<Outcome>], place: usize, outcome: Outcome, made: Made<'_>) {
    made(place, &outcome);
    if let Some(slot) = results.get_mut(place) {
        *slot = Some(outcome);
    }
}

fn all_failed(machines: &[MachineSpec], e: &ProviderError, made: Made<'_>) -> Vec<Outcome> {
    let all: Vec<Outcome> = machines.iter().map(|_| Err(e.clone())).collect();
    all.iter().enumerate().for_each(|(i, r)| made(i, r));
    all
}

/// Those that are told the same and are at the same attempt, ten to a call.
fn batches(machines: &[MachineSpec], todo: &[(usize, usize)]) -> Vec<(usize, Vec<usize>)> {
    let mut all: Vec<(usize, Vec<usize>)> = Vec::new();
    for (place, attempt) in todo {
        let spec = &machines[*place];
        let same = |(a, places): &&mut (usize, Vec<usize>)| {
            let first = &machines[places[0]];
            a == attempt && places.len() < AT_ONCE && first.role == spec.role && first.user_data == spec.user_data
        };
        match all.iter_mut().find(same) {
            Some((_, places)) => places.push(*place),
            None => all.push((*attempt, vec![*place])),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use herdsman_wire::Secret;

    use super::*;

    #[test]
    fn ten_that_are_told_the_same_go_into_one_call() {
        let spec = |n: usize, role, told: &str| MachineSpec {
            node: format!("demo-w{n}").parse().unwrap(),
            role,
            user_data: Secret::new(told),
            tags: super::super::super::Tags::new(),
        };
        let mut all = vec![spec(0, Role::Scheduler, "a")];
        all.extend((1..24).map(|n| spec(n, Role::Worker, "a")));
        all.push(spec(24, Role::Worker, "b"));
        let todo: Vec<(usize, usize)> = (0..25).map(|p| (p, usize::from(p == 1))).collect();
        let sizes: Vec<(usize, usize)> = batches(&all, &todo).iter().map(|(a, p)| (*a, p.len())).collect();
        assert_eq!(sizes, [(0, 1), (1, 1), (0, 10), (0, 10), (0, 2), (0, 1)]);
    }
}
