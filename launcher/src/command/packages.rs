//! The nodes' Python as the settings want it: in place, copied, or the image's.

use std::path::{Path, PathBuf};

use herdsman_wire::report::Versions;
use herdsman_wire::spec::EnvironmentSpec;
use herdsman_wire::{ApiError, Code};

use super::context::Session;
use crate::bootstrap::Arch;
use crate::bootstrap::download::of_program;
use crate::cluster::Context;
use crate::config::{EnvSource, ProviderName, Settings};
use crate::environment::{self, Blob, Content, Copy, EnvRequest, Interpreter};
use crate::ui::Error;

/// Set in tests: nodes of this machine ask the index themselves, as nodes of a
/// cloud do.
const TEST_ONLINE: &str = "HERDSMAN_TEST_ONLINE";

/// What nodes are told, and what is sent for it.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) spec: EnvironmentSpec,
    pub(super) blobs: Vec<Blob>,
}

/// Whether the environment is copied; otherwise one is used that is there.
pub(super) fn is_copied(settings: &Settings) -> bool {
    match settings.env {
        EnvSource::Copy | EnvSource::Lock(_) => true,
        // On this machine the environment is there already: it is used in place.
        EnvSource::Auto => settings.provider != ProviderName::Local,
        EnvSource::Image | EnvSource::None => false,
    }
}

/// Chooses, locks and packs; nothing is sent and no machine is made yet, so a
/// package that cannot get there costs nothing.
pub(super) async fn choose(session: &Session, settings: &Settings, ctx: &Context) -> Result<Chosen, Error> {
    if !is_copied(settings) {
        return in_place(session, settings).map(|spec| Chosen {
            spec,
            blobs: Vec::new(),
        });
    }
    let python = interpreter(session, settings)?;
    let request = request(session, settings)?;
    let copy = prepare(session, &request, &python).await?;
    session.printer.note(&copy.summary());
    for note in &copy.notes {
        session.printer.note(&format!("  {note}"));
    }
    let mut spec = EnvironmentSpec::Locked {
        id: copy.id.clone(),
        uv: None,
        uv_blob: None,
        python: None,
        offline: false,
        credentials: copy.credentials.clone(),
    };
    let mut blobs = copy.blobs.clone();
    // Nodes of this machine use its uv and its Python. They may have no route to
    // an index, so this side fetches, and they need no password either.
    if let Some(root) = ctx.provider.environments() {
        let online = session.env.is_on(TEST_ONLINE);
        if !online {
            environment::warm(&copy, &request, &python, &root, |text| session.printer.note(text))
                .await
                .map_err(ApiError::from)?;
        }
        let uv = environment::find_uv(&python, &request.variables).map_err(ApiError::from)?;
        spec = EnvironmentSpec::Locked {
            id: copy.id.clone(),
            uv: Some(std::path::absolute(&uv).unwrap_or(uv)),
            uv_blob: None,
            python: Some(python.executable.clone()),
            offline: !online,
            credentials: if online { copy.credentials } else { Vec::new() },
        };
    }
    if let EnvironmentSpec::Locked { uv: None, uv_blob, .. } = &mut spec
        && let Some(blob) = own_uv(&python, &request)?
    {
        *uv_blob = Some(blob.sha256.clone());
        // First: without it nothing is installed.
        blobs.insert(0, blob);
    }
    Ok(Chosen { spec, blobs })
}

/// This computer's uv for machines that have none, where it runs on them too.
fn own_uv(python: &Interpreter, request: &EnvRequest) -> Result<Option<Blob>, Error> {
    let uv = environment::find_uv(python, &request.variables).map_err(ApiError::from)?;
    let Ok((Arch::X86_64, sha256)) = of_program(&uv) else {
        return Ok(None);
    };
    let size = std::fs::metadata(&uv).map_or(0, |m| m.len());
    Ok(Some(Blob {
        sha256: sha256.to_string(),
        size,
        content: Content::Path(uv),
    }))
}

/// The interpreter that counts, with what was passed over told.
pub(super) fn interpreter(session: &Session, settings: &Settings) -> Result<Interpreter, Error> {
    let named = settings.python.as_ref().map(|p| p.to_string_lossy().into_owned());
    let variables = environment::interpreter::variables();
    let python =
        environment::find_interpreter(&session.cwd()?, &variables, named.as_deref()).map_err(ApiError::from)?;
    for note in &python.notes {
        session.printer.note(note);
    }
    session.printer.note(&format!(
        "python {} at {} ({})",
        python.version,
        python.executable.display(),
        python.reason
    ));
    Ok(python)
}

/// What the settings say about a copy.
pub(super) fn request(session: &Session, settings: &Settings) -> Result<EnvRequest, Error> {
    let variables = environment::variables();
    let include = settings.include.iter().map(|path| {
        // Names of tools stand in the same list as paths; the settings have put
        // the folder before both.
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.exists() || name.contains('.') {
            path.to_string_lossy().into_owned()
        } else {
            name.to_owned()
        }
    });
    Ok(EnvRequest {
        project: environment::project_of(&session.cwd()?, &variables),
        lock: match &settings.env {
            EnvSource::Lock(file) => Some(file.clone()),
            _ => None,
        },
        include: include.collect(),
        ignore: settings.ignore.clone(),
        indexes: settings.indexes.clone(),
        setup: settings.setup.clone(),
        cache: session.store()?.folder().join("cache"),
        variables,
        ..EnvRequest::default()
    })
}

/// [`environment::prepare`]; steps that can take long are told.
pub(super) async fn prepare(session: &Session, request: &EnvRequest, python: &Interpreter) -> Result<Copy, Error> {
    let printer = &session.printer;
    let tell = |text: &str| {
        let long = ["building", "locking", "finding"].iter().any(|w| text.starts_with(w));
        if long || printer.verbose() {
            printer.note(text);
        }
    };
    Ok(environment::prepare(request, python, tell)
        .await
        .map_err(ApiError::from)?)
}

fn in_place(session: &Session, settings: &Settings) -> Result<EnvironmentSpec, Error> {
    if settings.provider != ProviderName::Local {
        return image(session, settings);
    }
    let python = interpreter(session, settings)?;
    let versions = if settings.env == EnvSource::None {
        Versions::default()
    } else {
        environment::installed_versions(&python).map_err(ApiError::from)?
    };
    let mut path: Vec<PathBuf> = vec![session.cwd()?];
    path.extend(settings.include.iter().filter_map(|p| p.parent().map(Path::to_owned)));
    path.dedup();
    Ok(EnvironmentSpec::Image {
        python: python.executable,
        path,
        versions,
    })
}

/// What the machines' image has, at the place where images have it.
fn image(session: &Session, settings: &Settings) -> Result<EnvironmentSpec, Error> {
    let EnvironmentSpec::Image { python, path, .. } = EnvironmentSpec::default() else {
        return Err(Error::new(Code::Internal, "the default environment is no image's"));
    };
    let python = settings.image_python.clone().unwrap_or(python);
    let versions = if settings.env == EnvSource::None {
        Versions::default()
    } else {
        let here = interpreter(session, settings)?;
        environment::installed_versions(&here).map_err(ApiError::from)?
    };
    Ok(EnvironmentSpec::Image { python, path, versions })
}
