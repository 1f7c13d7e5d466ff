//! Layers of a configuration: how a file and the flags lie over a preset, and which keys there are.

use super::{
    BUILTIN, DEFAULT_PRESET, DataConfig, DataOverride, ModelConfig, ModelOverride, RunConfig, TrainConfig,
    TrainOverride, require,
};
use crate::architecture::{Architecture, GraphModel};
use crate::error::{did_you_mean, one_line};
use crate::{Error, Result};
use serde::Deserialize;
use std::path::Path;

/// One layer over a preset: a configuration file, or the flags.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunOverride {
    pub preset: Option<String>,
    /// Relative to the configuration file, where there is one.
    pub graph: Option<String>,
    pub model: ModelOverride,
    pub train: TrainOverride,
    pub data: DataOverride,
}

impl RunConfig {
    /// Flags over file over preset, validated. The preset is `preset`, or the file's, or the default. A graph's own number of rows is its
    /// batch, and where it cannot be sampled no sample is planned.
    pub fn resolve(preset: Option<&str>, file: Option<&Path>, flags: &RunOverride) -> Result<Self> {
        let folder = file.and_then(Path::parent).unwrap_or(Path::new(""));
        let file = file.map(RunOverride::read).transpose()?.unwrap_or_default();
        let path = match (&flags.graph, &file.graph) {
            (Some(graph), _) => Some(absolute(Path::new(graph))?),
            (None, Some(graph)) => Some(absolute(&folder.join(graph))?),
            (None, None) => None,
        };
        let graph = path.as_ref().map(|path| GraphModel::read(Path::new(path))).transpose()?;
        Self::layered(preset, &file, flags, path.zip(graph.as_ref()))
    }

    /// The same where the graph, if there is one, is at hand with the name that the configuration has for it.
    pub fn layered(
        preset: Option<&str>,
        file: &RunOverride,
        flags: &RunOverride,
        graph: Option<(String, &GraphModel)>,
    ) -> Result<Self> {
        let name = preset.or(flags.preset.as_deref()).or(file.preset.as_deref()).unwrap_or(DEFAULT_PRESET);
        let mut config = Self::preset(name)?;
        let (path, graph) = graph.unzip();
        config.graph = path;
        if let Some(graph) = graph {
            require([file, flags].iter().all(|layer| layer.model == ModelOverride::default()), || {
                "there is a graph and a [model], of which a run has one: leave one of them out".to_owned()
            })?;
            config.train.batch = graph.batch();
            config.train.sample_bytes = if graph.has_logits() { config.train.sample_bytes } else { 0 };
        }
        let layers = [file, flags];
        for layer in layers {
            config.model.apply(&layer.model);
            config.train.apply(&layer.train);
            config.data.apply(&layer.data);
        }
        let set = |is_set: fn(&RunOverride) -> bool| layers.iter().any(|layer| is_set(layer));
        if set(|layer| layer.model.d_model.is_some()) && !set(|layer| layer.model.d_mlp.is_some()) {
            config.model.d_mlp = config.model.d_model.saturating_mul(4);
        }
        if set(|layer| layer.train.steps.is_some()) && !set(|layer| layer.train.warmup.is_some()) {
            config.train.warmup = config.train.warmup.min(config.train.steps / 10);
        }
        config.data.make_absolute()?;
        config.validate()?;
        if let Some(graph) = graph {
            require(config.train.batch == graph.batch(), || {
                format!(
                    "the graph {} takes {} rows a batch, and batch is {}: leave batch out",
                    graph.graph().name,
                    graph.batch(),
                    config.train.batch
                )
            })?;
            if config.train.sample_bytes > 0 {
                Architecture::from(graph.clone()).check_logits()?;
            }
        }
        Ok(config)
    }
}

impl RunOverride {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::reading(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses a configuration; `origin` names it in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let invalid = |e: toml::de::Error| {
            let line = e.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let place = line.map(|line| format!(", line {line}")).unwrap_or_default();
            Error::input(format!("{origin}{place}: {}", one_line(e.message())))
        };
        check_all_keys(&toml::from_str(text).map_err(invalid)?, origin)?;
        toml::from_str(text).map_err(invalid)
    }

    /// The same from a table that was no text, such as a page's request.
    pub fn from_table(table: toml::Table, origin: &str) -> Result<Self> {
        check_all_keys(&table, origin)?;
        // One key at a time: the error of a whole table does not say which it is about.
        for (section, value) in &table {
            for (key, value) in value.as_table().into_iter().flatten() {
                let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
                let section_alone = toml::Table::from_iter([(section.clone(), toml::Value::Table(alone))]);
                let invalid = |e: toml::de::Error| Error::input(format!("{origin}, {key}: {}", one_line(e.message())));
                section_alone.try_into::<Self>().map_err(invalid)?;
            }
        }
        table.try_into().map_err(|e: toml::de::Error| Error::input(format!("{origin}: {}", one_line(e.message()))))
    }
}

/// The tables of a configuration, and their keys.
const SECTIONS: [(&str, &[&str]); 3] =
    [("model", ModelConfig::KEYS), ("train", TrainConfig::KEYS), ("data", DataConfig::KEYS)];

fn check_all_keys(table: &toml::Table, origin: &str) -> Result<()> {
    check_keys(table, &["preset", "graph", "model", "train", "data"], origin, "")?;
    for (section, keys) in SECTIONS {
        if let Some(toml::Value::Table(table)) = table.get(section) {
            check_keys(table, keys, origin, &format!(" in [{section}]"))?;
        }
    }
    Ok(())
}

fn check_keys(table: &toml::Table, known: &[&str], origin: &str, place: &str) -> Result<()> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => {
            let at_home =
                SECTIONS.iter().find(|(section, keys)| keys.contains(&key.as_str()) && !place.contains(section));
            let advice = match at_home {
                Some((section, _)) => format!(": it belongs in [{section}]"),
                None => {
                    let near = did_you_mean(key, known.iter().copied());
                    format!("{near}: the keys there are {}", known.join(", "))
                }
            };
            Err(Error::input(format!("{origin}: there is no key \"{key}\"{place}{advice}")))
        }
    }
}

/// The absolute path as text.
fn absolute(path: &Path) -> Result<String> {
    require(!path.as_os_str().is_empty(), || "the path of a file is empty: name a file, or leave it out".to_owned())?;
    let full = std::path::absolute(path).map_err(|e| Error::reading(path, e))?;
    full.to_str().map(str::to_owned).ok_or_else(|| {
        Error::input(format!("the path {} is not UTF-8, which a configuration file must be", full.display()))
    })
}

impl DataConfig {
    /// Relative paths become absolute, so that a run can be resumed from another directory.
    fn make_absolute(&mut self) -> Result<()> {
        if self.data != BUILTIN {
            self.data = absolute(Path::new(&self.data))?;
        }
        if let Some(path) = &mut self.val_data {
            *path = absolute(Path::new(path))?;
        }
        Ok(())
    }
}
