//! Making a cluster that is not there yet.

use std::net::SocketAddr;
use std::time::Duration;

use herdsman_wire::api::{Expected, OperatorSerials};
use herdsman_wire::spec::DaskSecurity;
use herdsman_wire::{ApiError, Code, NodeName, Role, Timestamp, limits};
use tokio::time::Instant;

use super::access::{self, Access};
use super::cause;
use super::install::{Installation, patiently};
use super::names::{batch_name, scheduler_name, worker_name};
use super::own_address;
use super::{Context, Observe, Step, Wanted};
use crate::bootstrap::Node;
use crate::pki::{self, Roots};
use crate::provider::{ClusterRef, Machine, MachineSpec, Placement, ProviderError, Tags};
use crate::state::{Record, Stage, UserKeys};

/// A cluster on its way: what is needed to finish or undo it.
pub(super) struct Making {
    pub(super) record: Record,
    pub(super) keys: UserKeys,
    roots: Roots,
}

/// One node to be made.
struct Planned {
    placement: Placement,
    machine: MachineSpec,
    serial: String,
    /// Name of the batch that it is one of.
    batch: Option<NodeName>,
}

/// Tags of a cluster's resources, DESIGN section 7.
pub(super) fn tags(ctx: &Context, cluster: &ClusterRef, pin: &str, wanted: &Tags, expires: Option<Timestamp>) -> Tags {
    let now = Timestamp::now().seconds();
    let mut tags = wanted.clone();
    let expires = expires.map_or_else(|| "never".to_owned(), |t| t.seconds().to_string());
    for (key, value) in [
        ("herdsman-cluster", cluster.name.to_string()),
        ("herdsman-id", cluster.id.to_string()),
        ("herdsman-owner", ctx.user.clone()),
        ("herdsman-created", now.to_string()),
        ("herdsman-expires", expires),
        ("herdsman-ca", pin.chars().take(16).collect()),
        ("herdsman-version", env!("CARGO_PKG_VERSION").to_owned()),
    ] {
        tags.insert(key.to_owned(), value);
    }
    tags
}

impl Making {
    /// Makes keys, and writes down what is about to be made.
    pub(super) fn begin(ctx: &Context, wanted: &Wanted) -> Result<Self, ApiError> {
        let now = Timestamp::now();
        let id = pki::new_cluster_id()?;
        let lifetime = wanted.spec.limits.lifetime_seconds.map(Duration::from_secs);
        let roots = Roots::generate(&id, now, pki::authority_life(lifetime))?;
        let life = Duration::from_secs(wanted.spec.lives.operator_seconds);
        let keys = UserKeys {
            operator: roots.operator(&ctx.user, now, life)?,
            client: roots.client(&ctx.user, now, life)?,
        };
        let cluster = ClusterRef {
            name: wanted.name.clone(),
            id,
        };
        let pin = pki::fingerprint(&roots.pems.control)?;
        let expires = lifetime.map(|l| now.plus(l));
        let record = Record {
            tags: tags(ctx, &cluster, &pin, &wanted.tags, expires),
            cluster,
            provider: ctx.provider.name().to_owned(),
            created: now,
            agent: None,
            scheduler: None,
            region: ctx.provider.cloud().and_then(crate::provider::cloud::Cloud::region),
            roots: roots.pems.clone(),
            fingerprint: pin,
            insecure: wanted.spec.dask.security == DaskSecurity::None,
            own: matches!(wanted.spec.dask.security, DaskSecurity::Own { .. }),
            stage: Stage::Creating,
        };
        ctx.store.save(&record)?;
        ctx.store.save_keys(&record.cluster.name, &keys)?;
        Ok(Self { record, keys, roots })
    }

    fn plan(
        &self,
        ctx: &Context,
        wanted: &Wanted,
        name: NodeName,
        role: Role,
        index: u32,
        hub: Option<SocketAddr>,
    ) -> Result<Planned, ApiError> {
        let cluster = &self.record.cluster;
        let now = Timestamp::now();
        let placement = ctx.provider.place(cluster, &name, index)?;
        let allow = match role {
            Role::Scheduler => own_address::networks(&wanted.spec.firewall, &placement),
            Role::Worker => Vec::new(),
        };
        let (bootstrap, serial) = self.roots.bootstrap(role, &name, now, limits::BOOTSTRAP_LIFE)?;
        let node = Node {
            cluster,
            name: Some(&name),
            role,
            hub,
            placement: &placement,
            roots: &self.roots.pems,
            bootstrap,
            deadline: now.plus(limits::BOOTSTRAP_LIFE),
            allow: &allow,
        };
        let user_data = ctx.boot.user_data(node, ctx.provider.user_data_form())?;
        let mut tags = self.record.tags.clone();
        tags.insert("herdsman-role".to_owned(), role.as_str().to_owned());
        tags.insert("herdsman-node".to_owned(), name.to_string());
        let machine = MachineSpec {
            node: name,
            role,
            user_data,
            tags,
        };
        Ok(Planned {
            placement,
            machine,
            serial,
            batch: None,
        })
    }

    /// Workers that are all told the same, as one call of the provider makes them.
    fn plan_alike(&self, ctx: &Context, workers: u32, hub: SocketAddr) -> Result<Vec<Planned>, ApiError> {
        let cluster = &self.record.cluster;
        let now = Timestamp::now();
        let label = batch_name(&cluster.name, 0).map_err(usage)?;
        let (bootstrap, serial) = self
            .roots
            .bootstrap(Role::Worker, &label, now, limits::BOOTSTRAP_LIFE)?;
        let alike = Alike {
            cluster,
            roots: &self.roots.pems,
            tags: &self.record.tags,
            hub,
            bootstrap,
            deadline: now.plus(limits::BOOTSTRAP_LIFE),
        };
        let names = (0..workers).map(|n| worker_name(&cluster.name, n).map_err(usage));
        let specs = alike.specs(ctx, names.collect::<Result<_, _>>()?)?;
        let planned = specs.into_iter().map(|machine| Planned {
            placement: Placement::default(),
            machine,
            serial: serial.clone(),
            batch: Some(label.clone()),
        });
        Ok(planned.collect())
    }

    /// Creates all machines. Where the scheduler's address is known before it
    /// exists, all at once; else the workers as soon as it is known.
    pub(super) async fn machines(
        &mut self,
        ctx: &Context,
        wanted: &Wanted,
        see: Observe<'_>,
    ) -> Result<Vec<(Machine, Expected)>, ApiError> {
        let cluster = self.record.cluster.clone();
        ctx.provider.ensure_network(&cluster, &self.record.tags).await?;
        let name = scheduler_name(&cluster.name).map_err(usage)?;
        let scheduler = self.plan(ctx, wanted, name, Role::Scheduler, 0, None)?;
        let known = scheduler.placement.address;
        let mut first = vec![scheduler];
        let mut made = Vec::new();
        if known.is_none() {
            made = self.create(ctx, &first, see).await?;
            first.clear();
        }
        let address = known
            .or_else(|| made.first().and_then(|(m, _): &(Machine, _)| m.address))
            .ok_or_else(|| {
                ApiError::new(
                    Code::Provider,
                    "the scheduler's machine has no address on the cluster's network",
                )
            })?;
        let hub = SocketAddr::new(address, limits::AGENT_PORT);
        if alike(ctx, wanted.workers) {
            first.extend(self.plan_alike(ctx, wanted.workers, hub)?);
        }
        for number in u32::try_from(first.iter().filter(|p| p.batch.is_some()).count()).unwrap_or(0)..wanted.workers {
            let name = worker_name(&cluster.name, number).map_err(usage)?;
            first.push(self.plan(ctx, wanted, name, Role::Worker, number + 1, Some(hub))?);
        }
        made.extend(self.create(ctx, &first, see).await?);
        let scheduler = made.iter_mut().find(|(m, _)| m.role == Role::Scheduler).map(|(m, _)| m);
        if let Some(m) = scheduler
            && m.agent.is_none()
        {
            *m = ctx.provider.settled(m).await?;
        }
        let scheduler = made.iter().find(|(m, _)| m.role == Role::Scheduler).map(|(m, _)| m);
        self.record.agent = scheduler.and_then(|m| m.agent);
        self.record.scheduler = scheduler.and_then(|m| m.scheduler);
        ctx.store.save(&self.record)?;
        Ok(made)
    }

    async fn create(
        &self,
        ctx: &Context,
        planned: &[Planned],
        see: Observe<'_>,
    ) -> Result<Vec<(Machine, Expected)>, ApiError> {
        let specs: Vec<MachineSpec> = planned.iter().map(|p| p.machine.clone()).collect();
        let invited = planned.iter().map(|p| Invited {
            serial: p.serial.clone(),
            batch: p.batch.clone(),
        });
        create(ctx, &self.record.cluster, &specs, invited.collect(), see).await
    }

    /// Waits for the hub's agent, signs its issuing certificates, and gives the
    /// roots up once it has them in use.
    pub(super) async fn install(
        self,
        ctx: &Context,
        wanted: &Wanted,
        machines: &[Machine],
        expected: Vec<Expected>,
        until: Instant,
    ) -> Result<Access, ApiError> {
        let Self { record, keys, roots } = self;
        let link = access::link(ctx, &record, &keys.operator)?;
        let life = Duration::from_secs(wanted.spec.lives.operator_seconds);
        let installation = Installation {
            link: &link,
            record: &record,
            roots: &roots,
            wanted,
            expected,
            operator: OperatorSerials {
                user: ctx.user.clone(),
                serials: [keys.operator.serial.clone(), keys.client.serial.clone()],
                not_after: Timestamp::now().plus(life),
            },
            until,
        };
        tokio::select! {
            done = installation.run() => done?,
            dead = cause::end_of_scheduler(ctx, machines) => return Err(dead),
        }
        drop(roots);
        // Nodes that are quicker than this wait for what they miss.
        super::environment::send(&link, wanted, until).await?;
        // The roots signed our own certificates, and there is no list of revoked
        // ones by the roots: Dask takes only what the hub signed.
        let (operator, client) = patiently(until, || access::request(&link)).await?;
        let mut access = Access { record, keys, link };
        access::use_keys(ctx, &mut access, UserKeys { operator, client })?;
        access.record.stage = Stage::Up;
        ctx.store.save(&access.record)?;
        Ok(access)
    }
}

/// What a new machine was invited with.
#[derive(Clone, Debug)]
pub(super) struct Invited {
    /// Serial of its bootstrap certificate.
    pub(super) serial: String,
    /// Name of the batch that shares it.
    pub(super) batch: Option<NodeName>,
}

/// Whether so many workers are told the same.
pub(super) fn alike(ctx: &Context, workers: u32) -> bool {
    workers > 1 && ctx.provider.cloud().is_some_and(|c| c.facts().shares_user_data)
}

/// What machines of one batch have in common.
pub(super) struct Alike<'a> {
    pub(super) cluster: &'a ClusterRef,
    pub(super) roots: &'a herdsman_wire::join::Roots,
    pub(super) tags: &'a Tags,
    pub(super) hub: SocketAddr,
    pub(super) bootstrap: herdsman_wire::join::Bootstrap,
    pub(super) deadline: Timestamp,
}

impl Alike<'_> {
    /// Their machines; names are wishes.
    pub(super) fn specs(self, ctx: &Context, names: Vec<NodeName>) -> Result<Vec<MachineSpec>, ApiError> {
        let node = Node {
            cluster: self.cluster,
            name: None,
            role: Role::Worker,
            hub: Some(self.hub),
            placement: &Placement::default(),
            roots: self.roots,
            bootstrap: self.bootstrap,
            deadline: self.deadline,
            allow: &[],
        };
        let user_data = ctx.boot.user_data(node, ctx.provider.user_data_form())?;
        let spec = |name: NodeName| {
            let mut tags = self.tags.clone();
            tags.insert("herdsman-role".to_owned(), Role::Worker.as_str().to_owned());
            tags.insert("herdsman-node".to_owned(), name.to_string());
            MachineSpec {
                node: name,
                role: Role::Worker,
                user_data: user_data.clone(),
                tags,
            }
        };
        Ok(names.into_iter().map(spec).collect())
    }
}

fn usage(e: herdsman_wire::name::NameError) -> ApiError {
    ApiError::new(Code::Usage, e.to_string()).with_hint("give the cluster a shorter name")
}

/// Creates machines and says what the hub shall expect of them. When one cannot
/// be made, those that were are still told of by `see`, and are found by tags.
pub(super) async fn create(
    ctx: &Context,
    cluster: &ClusterRef,
    specs: &[MachineSpec],
    invited: Vec<Invited>,
    see: Observe<'_>,
) -> Result<Vec<(Machine, Expected)>, ApiError> {
    use herdsman_wire::report::{Phase, PhaseName, PhaseStatus};
    let started = Timestamp::now();
    let phase = |status, ended, error| Phase {
        phase: PhaseName::Create,
        status,
        started,
        ended,
        deadline: None,
        detail: None,
        error,
    };
    for spec in specs {
        see(&Step::Phase(spec.node.clone(), phase(PhaseStatus::Started, None, None)));
    }
    for todo in ctx.provider.prepare(cluster, specs)? {
        see(&Step::Note(todo));
    }
    let tell = |i: usize, result: &Result<Machine, ProviderError>| {
        let Some(spec) = specs.get(i) else { return };
        let (status, error) = match result {
            Ok(_) => (PhaseStatus::Done, None),
            Err(e) => (PhaseStatus::Failed, Some(ApiError::from(e.clone()))),
        };
        see(&Step::Phase(
            spec.node.clone(),
            phase(status, Some(Timestamp::now()), error),
        ));
    };
    let results = ctx.provider.create(cluster, specs, &tell).await;
    let mut made = Vec::new();
    let mut error = None;
    for (result, invited) in results.into_iter().zip(invited) {
        match result {
            Ok(machine) => {
                let expected = Expected {
                    node: machine.node.clone(),
                    serial: invited.serial,
                    batch: invited.batch,
                    address: machine.address,
                    any_address: machine.address.is_none() && ctx.provider.hides_addresses(),
                };
                made.push((machine, expected));
            }
            Err(e) => {
                error.get_or_insert_with(|| ApiError::from(e));
            }
        }
    }
    error.map_or(Ok(made), Err)
}
