//! Confine: what the process gives up before it serves anybody.
//!
//! Its root, its core dumps, writing anywhere but where its state and its Maildirs are, and system calls
//! that no mail server makes. All of it before the first thread but this one exists, so that every thread
//! is bound by it. `docs/SECURITY.md` says what that is good for.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use landlock::{ABI, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules};
use nix::libc;
use nix::unistd::{Uid, User};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

use super::{Error, io_error};
use crate::config::Settings;
use crate::mail::Endpoint;

/// What the process may do from now on.
#[derive(Debug, Default)]
pub(super) struct Confined {
    /// Where it may write; everywhere when absent.
    writable: Option<Vec<PathBuf>>,
    /// What could not be given up here, and why.
    pub(super) warnings: Vec<String>,
}

impl Confined {
    /// The first of these settings' places that this process can no longer write to.
    pub(super) fn out_of_reach(&self, settings: &Settings) -> Option<PathBuf> {
        let writable = self.writable.as_ref()?;
        places(settings).into_iter().find(|place| {
            let place = std::path::absolute(place).unwrap_or_else(|_| place.clone());
            !writable.iter().any(|root| place.starts_with(root))
        })
    }
}

/// Every folder that these settings write below.
fn places(settings: &Settings) -> Vec<PathBuf> {
    let maildirs =
        settings.regions.values().flat_map(|region| &region.store).filter_map(|store| match store {
            Endpoint::Maildir(path) => Some(path.clone()),
            Endpoint::Smtp { .. }
            | Endpoint::Smtps { .. }
            | Endpoint::Lmtp { .. }
            | Endpoint::LmtpUnix(_) => None,
        });
    let log = settings.log.file.as_deref().and_then(Path::parent).map(Path::to_owned);
    std::iter::once(settings.node.state_dir.clone()).chain(maildirs).chain(log).collect()
}

pub(super) fn confine(settings: &Settings) -> Result<Confined, Error> {
    make_private(&settings.node.state_dir)?;
    for place in &places(settings)[1..] {
        // What cannot be made now is told when it is first needed.
        let _ = std::fs::create_dir_all(place);
    }
    if let Some(name) = &settings.node.user {
        become_user(name, settings)?;
    }
    let mut confined = Confined::default();
    if !settings.node.sandbox {
        return Ok(confined);
    }
    no_core_dumps();
    let writable: Vec<PathBuf> =
        places(settings).iter().filter_map(|place| std::path::absolute(place).ok()).collect();
    match restrict_writing(&writable) {
        Ok(true) => confined.writable = Some(writable),
        Ok(false) => {
            confined.warnings.push("this kernel has no Landlock: writing is not confined".to_owned())
        }
        Err(why) => confined.warnings.push(format!("writing is not confined: {why}")),
    }
    if let Err(why) = restrict_calls() {
        confined.warnings.push(format!("system calls are not confined: {why}"));
    }
    Ok(confined)
}

fn make_private(dir: &Path) -> Result<(), Error> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(io_error(format!("the state directory {}", dir.display())))
}

/// For good: groups first, then the user, in every thread (there is one).
fn become_user(name: &str, settings: &Settings) -> Result<(), Error> {
    let failed = |errno: nix::Error| io_error(format!("node.user \"{name}\""))(errno.into());
    let user = User::from_name(name).map_err(failed)?.ok_or_else(|| {
        io_error("node.user")(std::io::Error::other(format!("there is no user \"{name}\" on this system")))
    })?;
    if Uid::effective() == user.uid {
        return Ok(());
    }
    if !Uid::effective().is_root() {
        let why = std::io::Error::other(format!(
            "only root can become \"{name}\"; start it as root or as that user"
        ));
        return Err(io_error("node.user")(why));
    }
    for place in places(settings) {
        give_to(&place, &user)?;
    }
    let c_name = CString::new(name).expect("a user's name from the system has no NUL");
    nix::unistd::initgroups(&c_name, user.gid).map_err(failed)?;
    nix::unistd::setgid(user.gid).map_err(failed)?;
    nix::unistd::setuid(user.uid).map_err(failed)
}

/// A folder that is still empty becomes the user's; one that somebody else has filled is the operator's to give.
fn give_to(place: &Path, user: &User) -> Result<(), Error> {
    let what = || place.display().to_string();
    let Ok(found) = std::fs::metadata(place) else { return Ok(()) };
    if found.uid() == user.uid.as_raw() {
        return Ok(());
    }
    if std::fs::read_dir(place).map_err(io_error(what()))?.next().is_some() {
        // A shared folder, such as that of all logs, may be writable for its group.
        if found.gid() == user.gid.as_raw() {
            return Ok(());
        }
        let why = format!("is not {}'s; give it over with: chown -R {0} {1}", user.name, place.display());
        return Err(io_error(what())(std::io::Error::other(why)));
    }
    std::os::unix::fs::chown(place, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        .map_err(io_error(what()))
}

/// What is in memory is people's mail. Also keeps others of the same user from looking in.
fn no_core_dumps() {
    use nix::sys::resource::{Resource, setrlimit};
    // Neither can fail for a process about itself.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let _ = nix::sys::prctl::set_dumpable(false);
}

/// `false` when the kernel cannot.
fn restrict_writing(below: &[PathBuf]) -> Result<bool, landlock::RulesetError> {
    let writing = AccessFs::from_write(ABI::V5);
    let null = PathBuf::from("/dev/null");
    let status = Ruleset::default()
        .handle_access(writing)?
        .create()?
        .add_rules(path_beneath_rules(below.iter().chain([&null]), writing))?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Refuses what only a way out would need: other processes' memory, the kernel, mounts, namespaces, clocks.
fn restrict_calls() -> Result<(), String> {
    let refused = [
        libc::SYS_acct,
        libc::SYS_add_key,
        libc::SYS_adjtimex,
        libc::SYS_bpf,
        libc::SYS_chroot,
        libc::SYS_clock_adjtime,
        libc::SYS_clock_settime,
        libc::SYS_delete_module,
        libc::SYS_finit_module,
        libc::SYS_fsmount,
        libc::SYS_fsopen,
        libc::SYS_init_module,
        libc::SYS_io_uring_setup,
        libc::SYS_kcmp,
        libc::SYS_kexec_load,
        libc::SYS_keyctl,
        libc::SYS_mount,
        libc::SYS_move_mount,
        libc::SYS_open_by_handle_at,
        libc::SYS_open_tree,
        libc::SYS_perf_event_open,
        libc::SYS_personality,
        libc::SYS_pivot_root,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_ptrace,
        libc::SYS_quotactl,
        libc::SYS_reboot,
        libc::SYS_request_key,
        libc::SYS_setdomainname,
        libc::SYS_sethostname,
        libc::SYS_setns,
        libc::SYS_settimeofday,
        libc::SYS_swapoff,
        libc::SYS_swapon,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_userfaultfd,
    ];
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        refused.into_iter().map(|call| (call, Vec::new())).collect();
    let arch =
        std::env::consts::ARCH.try_into().map_err(|error: seccompiler::BackendError| error.to_string())?;
    let refusal = SeccompAction::Errno(u32::try_from(libc::EPERM).expect("a small positive number"));
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, refusal, arch).map_err(|error| error.to_string())?;
    let program: BpfProgram =
        filter.try_into().map_err(|error: seccompiler::BackendError| error.to_string())?;
    seccompiler::apply_filter(&program).map_err(|error| error.to_string())
}
