//! The server's settings: defaults, then a file, then `FORKPOINT_…` variables, then flags. Unknown names are refused.

use anyhow::{Context, bail};
use forkpoint_domain::{checkpoint, limits};
use serde::Deserialize;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Every setting of the server. Field names are the names in the file; `FORKPOINT_` plus the name in
/// capitals is the variable.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where everything is kept.
    pub(crate) data_dir: PathBuf,
    /// Address and port of the API.
    pub(crate) listen: SocketAddr,
    /// Database; none: SQLite in the data directory.
    pub(crate) database_url: Option<String>,
    /// Where built templates are shared between data directories.
    pub(crate) cache_dir: PathBuf,
    /// How layers are kept: auto, btrfs, reflink or copy.
    pub(crate) layer_driver: String,
    /// Bytes of the host's disk that layers never use.
    pub(crate) host_reserve_bytes: u64,
    /// Sandboxes that may run at a time.
    pub(crate) max_sandboxes: u32,
    /// Memory of the host that is meant for sandboxes; none: nine tenths of it.
    pub(crate) memory_budget_bytes: Option<u64>,
    /// How many times the budget the limits of running sandboxes may sum up to.
    pub(crate) memory_overcommit: u32,
    /// Bytes of the host's memory that must be available when a sandbox is started.
    pub(crate) host_memory_reserve_bytes: u64,
    /// Where durable checkpoint data goes: `local` (in the data directory), `off`, or the address of a store.
    pub(crate) vault: String,
    /// Network slots kept ready.
    pub(crate) slot_pool: usize,
    /// Empty layers kept ready for new sandboxes.
    pub(crate) warm_pool: usize,
    /// Addresses that servers on this host share out among themselves.
    pub(crate) network_pool: String,
    /// Resolvers for sandboxes; none: the host's.
    pub(crate) resolvers: Option<Vec<Ipv4Addr>>,
    /// Requests a key may make a minute; none: as many as it likes.
    pub(crate) rate_limit_per_minute: Option<u32>,
    /// Whether webhooks may go to private addresses.
    pub(crate) webhooks_allow_private: bool,
    /// Whether /metrics answers.
    pub(crate) metrics: bool,
    /// CPUs of a sandbox for which none are asked.
    pub(crate) default_cpus: String,
    /// Memory of a sandbox for which none is asked.
    pub(crate) default_memory: String,
    /// Processes and threads a sandbox may have.
    pub(crate) sandbox_pids: u32,
    /// Bytes the layer of a sandbox may hold.
    pub(crate) sandbox_disk_bytes: u64,
    /// Files a checkpoint may have.
    pub(crate) max_checkpoint_files: u64,
    /// Bytes a checkpoint may have.
    pub(crate) max_checkpoint_bytes: u64,
    /// Days a checkpoint is kept; 0: for ever.
    pub(crate) checkpoint_retention_days: u32,
    /// Days the layer of a stopped sandbox is kept; 0: for ever.
    pub(crate) stopped_retention_days: u32,
    /// Bytes of checkpoints' layers kept on this machine; none: as many as there are.
    pub(crate) hot_layer_bytes: Option<u64>,
    /// Outcomes of recipes' steps that are kept for later builds.
    pub(crate) build_cache_layers: u64,
    /// Bytes that they may have together.
    pub(crate) build_cache_bytes: u64,
    /// The most sandboxes one request may make.
    pub(crate) max_count: u32,
    /// Log lines for people (text) or machines (json).
    pub(crate) log_format: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/forkpoint".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            database_url: None,
            cache_dir: "/var/cache/forkpoint".into(),
            layer_driver: "auto".into(),
            host_reserve_bytes: 2 << 30,
            max_sandboxes: 1000,
            memory_budget_bytes: None,
            memory_overcommit: 64,
            host_memory_reserve_bytes: 256 << 20,
            vault: "local".into(),
            slot_pool: 8,
            warm_pool: 0,
            network_pool: "10.213.0.0/18".into(),
            resolvers: None,
            rate_limit_per_minute: None,
            webhooks_allow_private: false,
            metrics: true,
            default_cpus: "1".into(),
            default_memory: "1Gi".into(),
            sandbox_pids: 1024,
            sandbox_disk_bytes: 10 << 30,
            max_checkpoint_files: checkpoint::DEFAULT_MAX_FILES,
            max_checkpoint_bytes: checkpoint::DEFAULT_MAX_BYTES,
            checkpoint_retention_days: checkpoint::DEFAULT_RETENTION_DAYS,
            stopped_retention_days: 30,
            hot_layer_bytes: None,
            build_cache_layers: 500,
            build_cache_bytes: 20 << 30,
            max_count: 100,
            log_format: "text".into(),
        }
    }
}

/// Variables that begin with `FORKPOINT_` and are no settings: the client's, and those that are read elsewhere.
const OTHER_VARIABLES: [&str; 5] =
    ["FORKPOINT_URL", "FORKPOINT_KEY", "FORKPOINT_PROFILE", "FORKPOINT_LOG", "FORKPOINT_FAILPOINT"];

/// Puts the layers of settings together; `flags` are (name, value) pairs that were given on the command line.
pub(crate) fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (String, String)>,
    flags: &[(&str, String)],
) -> anyhow::Result<Config> {
    let mut table = match file {
        Some(path) => {
            let text =
                std::fs::read_to_string(path).with_context(|| format!("read settings from {}", path.display()))?;
            text.parse::<toml::Table>().with_context(|| format!("settings in {}", path.display()))?
        }
        None => toml::Table::new(),
    };
    let from_variables = variables.filter_map(|(name, value)| {
        let setting = name
            .strip_prefix("FORKPOINT_")
            .filter(|rest| !OTHER_VARIABLES.contains(&name.as_str()) && !rest.starts_with("TEST_"))?;
        Some((setting.to_ascii_lowercase(), value, name.clone()))
    });
    let from_flags = flags.iter().map(|(name, value)| (name.replace('-', "_"), value.clone(), format!("--{name}")));
    for (setting, value, source) in from_variables.chain(from_flags).collect::<Vec<_>>() {
        let Some((_, kind)) = SETTINGS.iter().find(|(name, _)| *name == setting) else {
            let names: Vec<_> = SETTINGS.iter().map(|(name, _)| *name).collect();
            bail!("{source}: there is no setting '{setting}'; the settings are {}", names.join(", "));
        };
        let value = value_of(&setting, *kind, &value).with_context(|| source)?;
        table.insert(setting, value);
    }
    let config: Config = table.try_into().context("settings")?;
    check(&config)?;
    Ok(config)
}

/// How a setting is written in a variable or flag.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Truth,
    /// Separated by commas.
    List,
}

fn value_of(setting: &str, kind: Kind, text: &str) -> anyhow::Result<toml::Value> {
    Ok(match kind {
        Kind::Text => toml::Value::String(text.to_owned()),
        Kind::Number => toml::Value::Integer(
            text.trim().parse().ok().with_context(|| format!("{setting} must be a whole number, not '{text}'"))?,
        ),
        Kind::Truth => match text.trim() {
            "true" | "1" | "yes" => toml::Value::Boolean(true),
            "false" | "0" | "no" => toml::Value::Boolean(false),
            _ => bail!("{setting} must be true or false, not '{text}'"),
        },
        Kind::List => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            toml::Value::Array(parts.map(|part| toml::Value::String(part.to_owned())).collect())
        }
    })
}

const SETTINGS: [(&str, Kind); 31] = [
    ("data_dir", Kind::Text),
    ("listen", Kind::Text),
    ("database_url", Kind::Text),
    ("cache_dir", Kind::Text),
    ("layer_driver", Kind::Text),
    ("host_reserve_bytes", Kind::Number),
    ("max_sandboxes", Kind::Number),
    ("memory_budget_bytes", Kind::Number),
    ("memory_overcommit", Kind::Number),
    ("host_memory_reserve_bytes", Kind::Number),
    ("vault", Kind::Text),
    ("slot_pool", Kind::Number),
    ("warm_pool", Kind::Number),
    ("network_pool", Kind::Text),
    ("resolvers", Kind::List),
    ("rate_limit_per_minute", Kind::Number),
    ("webhooks_allow_private", Kind::Truth),
    ("metrics", Kind::Truth),
    ("default_cpus", Kind::Text),
    ("default_memory", Kind::Text),
    ("sandbox_pids", Kind::Number),
    ("sandbox_disk_bytes", Kind::Number),
    ("max_checkpoint_files", Kind::Number),
    ("max_checkpoint_bytes", Kind::Number),
    ("checkpoint_retention_days", Kind::Number),
    ("stopped_retention_days", Kind::Number),
    ("hot_layer_bytes", Kind::Number),
    ("build_cache_layers", Kind::Number),
    ("build_cache_bytes", Kind::Number),
    ("max_count", Kind::Number),
    ("log_format", Kind::Text),
];

fn check(config: &Config) -> anyhow::Result<()> {
    limits::parse_cpus(&config.default_cpus).context("default_cpus")?;
    limits::parse_memory(&config.default_memory).context("default_memory")?;
    if !["auto", "btrfs", "reflink", "copy"].contains(&config.layer_driver.as_str()) {
        bail!("layer_driver must be auto, btrfs, reflink or copy, not '{}'", config.layer_driver);
    }
    if !["text", "json"].contains(&config.log_format.as_str()) {
        bail!("log_format must be text or json, not '{}'", config.log_format);
    }
    if config.warm_pool > 512 {
        bail!("warm_pool must be at most 512");
    }
    if config.sandbox_pids < 16 {
        bail!("sandbox_pids must be at least 16");
    }
    if config.max_count == 0 || config.max_count > 1000 {
        bail!("max_count must be between 1 and 1000");
    }
    // Of 1021 network slots some must be left for sandboxes that are just being restored.
    if config.max_sandboxes == 0 || config.max_sandboxes > 1010 {
        bail!("max_sandboxes must be between 1 and 1010");
    }
    if config.memory_overcommit == 0 {
        bail!("memory_overcommit must be at least 1");
    }
    if config.slot_pool > 512 {
        bail!("slot_pool must be at most 512");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> std::vec::IntoIter<(String, String)> {
        pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn flags_win_over_variables_over_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("forkpoint.toml");
        std::fs::write(&file, "slot_pool = 1\nmax_count = 5\nlisten = \"127.0.0.1:1\"\n").unwrap();
        let given =
            variables(&[("FORKPOINT_SLOT_POOL", "2"), ("FORKPOINT_LISTEN", "127.0.0.1:2"), ("FORKPOINT_URL", "x")]);
        let config = load(Some(&file), given, &[("listen", "127.0.0.1:3".into())]).unwrap();
        assert_eq!((config.slot_pool, config.max_count, config.listen.port()), (2, 5, 3));
        assert_eq!(config.sandbox_pids, Config::default().sandbox_pids);
    }

    #[test]
    fn unknown_and_senseless_settings_are_refused_by_name() {
        for (name, value, expected) in [
            ("FORKPOINT_SLOT_POL", "1", "slot_pol"),
            ("FORKPOINT_SLOT_POOL", "many", "slot_pool"),
            ("FORKPOINT_LAYER_DRIVER", "zfs", "layer_driver"),
            ("FORKPOINT_DEFAULT_CPUS", "0", "default_cpus"),
            ("FORKPOINT_WARM_POOL", "3000", "warm_pool"),
        ] {
            let error = format!("{:#}", load(None, variables(&[(name, value)]), &[]).unwrap_err());
            assert!(error.contains(expected), "{name}={value}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("forkpoint.toml");
        std::fs::write(&file, "sloot_pool = 1\n").unwrap();
        assert!(format!("{:#}", load(Some(&file), variables(&[]), &[]).unwrap_err()).contains("sloot_pool"));
    }

    #[test]
    fn every_setting_can_come_from_a_variable() {
        for (name, kind) in SETTINGS {
            let value = match (name, kind) {
                ("data_dir" | "cache_dir", _) => "/x",
                ("listen", _) => "127.0.0.1:9",
                ("layer_driver", _) => "copy",
                ("network_pool", _) => "10.1.0.0/18",
                ("default_memory", _) => "64Mi",
                ("log_format", _) => "json",
                ("metrics", _) => "false",
                (_, Kind::Truth) => "true",
                (_, Kind::List) => "192.0.2.53, 192.0.2.54",
                _ => "20",
            };
            let variable = format!("FORKPOINT_{}", name.to_ascii_uppercase());
            let config = load(None, variables(&[(&variable, value)]), &[]);
            assert_ne!(config.unwrap(), Config::default(), "{variable}={value}");
        }
    }
}
