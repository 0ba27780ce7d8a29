//! The functions of the house, from everybody who knows of them: workers that answer, built programs, and Redis, where
//! each worker wrote its manifest when it started.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use futures::future::join_all;
use oncue_proto::oncue::v1::TimerFired;
use oncue_proto::{Event as _, files::FileUploaded};
use serde_json::{Value, json};

use crate::program;
use oncue_core::bus::{Bus, BusError, PlainMessage};
use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;
use oncue_proto::event::stream_of_type;

const QUIET: Duration = Duration::from_millis(300);

/// A function and who knows of it.
#[derive(Debug, Clone)]
pub struct Known {
    pub manifest: Manifest,
    /// Workers that answer.
    pub running: u64,
    /// Its program is there.
    pub built: bool,
    /// When one of its workers last started, Unix milliseconds.
    pub seen: Option<u64>,
}

/// What is declared: functions, and schedules as (event type, function that is meant).
#[derive(Debug, Default)]
pub struct House {
    pub functions: BTreeMap<String, Known>,
    pub schedules: Vec<(String, Option<String>)>,
}

impl House {
    /// Asks everybody, the programs in the folder `bin` too. What a program could not say is in the second list.
    pub async fn ask(
        config: &Config,
        bin: &Path,
        bus: Option<&Bus>,
        store: Option<&Store>,
    ) -> Result<(Self, Vec<String>), String> {
        let mut house = Self::default();
        if let Some(store) = store {
            for registered in store.functions().await.map_err(|e| e.to_string())? {
                house.add(registered.manifest).seen = Some(registered.seen);
            }
        }
        let built: Vec<&String> = config
            .functions
            .keys()
            .filter(|name| bin.join(name).is_file())
            .collect();
        let asked = join_all(built.iter().map(|name| program::manifest(bin, name))).await;
        let mut remarks = Vec::new();
        for (name, manifest) in built.into_iter().zip(asked) {
            match manifest {
                Ok(manifest) => house.add(manifest).built = true,
                Err(why) => remarks.push(format!("{name} --manifest: {why}")),
            }
        }
        if let Some(bus) = bus {
            for manifest in answering(bus).await.map_err(|e| e.to_string())? {
                house.add(manifest).running += 1;
            }
        }
        let schedules = config.schedules.iter().map(|schedule| {
            let function = schedule.payload()["function"].as_str().map(str::to_owned);
            (
                schedule.ty(),
                function.filter(|_| schedule.ty() == TimerFired::TYPE),
            )
        });
        house.schedules = schedules.collect();
        Ok((house, remarks))
    }

    /// The manifest told last counts: those of running workers come after those of programs and of the past.
    pub fn add(&mut self, manifest: Manifest) -> &mut Known {
        let known = self
            .functions
            .entry(manifest.name.clone())
            .or_insert_with(|| Known {
                manifest: manifest.clone(),
                running: 0,
                built: false,
                seen: None,
            });
        known.manifest = manifest;
        known
    }

    pub fn manifests(&self) -> impl Iterator<Item = &Manifest> {
        self.functions.values().map(|known| &known.manifest)
    }

    /// All types somebody declares to emit or to act on.
    pub fn types(&self) -> BTreeSet<&str> {
        let declared = self
            .manifests()
            .flat_map(|m| m.triggers.iter().chain(&m.emits))
            .map(String::as_str);
        declared
            .chain(self.schedules.iter().map(|(ty, _)| ty.as_str()))
            .collect()
    }

    pub fn listeners<'h>(&'h self, ty: &'h str) -> impl Iterator<Item = &'h str> {
        self.manifests()
            .filter(move |m| m.triggers.iter().any(|t| t == ty))
            .map(|m| m.name.as_str())
    }

    /// Who emits a type by its own word: functions, the gateway for uploads, the clock.
    pub fn emitters(&self, ty: &str) -> Vec<String> {
        let mut emitters: Vec<String> = self
            .manifests()
            .filter(|m| m.emits.iter().any(|t| t == ty))
            .map(|m| m.name.clone())
            .collect();
        if ty == FileUploaded::TYPE {
            emitters.push("gateway".to_owned());
        }
        if self.schedules.iter().any(|(scheduled, _)| scheduled == ty) {
            emitters.push("schedule".to_owned());
        }
        emitters
    }

    /// Whether the clock cues a function, or a type for all.
    pub fn is_scheduled(&self, ty: &str, function: &str) -> bool {
        self.schedules.iter().any(|(scheduled, only)| {
            scheduled == ty && only.as_deref().is_none_or(|f| f == function)
        })
    }
}

/// Manifests as running workers tell them, one for each instance.
async fn answering(bus: &Bus) -> Result<Vec<Manifest>, BusError> {
    let answers = bus.ask_all("$SRV.INFO", QUIET).await?;
    let manifest = |note: &PlainMessage| -> Option<Manifest> {
        let answer: Value = serde_json::from_slice(&note.payload).ok()?;
        serde_json::from_str(answer["endpoints"][0]["metadata"]["manifest"].as_str()?).ok()
    };
    Ok(answers.iter().filter_map(manifest).collect())
}

/// Those of the types of which their stream still holds an event.
pub async fn published(bus: &Bus, types: BTreeSet<&str>) -> BTreeSet<String> {
    let looked = join_all(types.into_iter().map(|ty| async move {
        for subject in [ty.to_owned(), format!("{ty}.*")] {
            let query = json!({ "seq": 1, "next_by_subj": subject });
            if bus
                .api(&format!("STREAM.MSG.GET.{}", stream_of_type(ty)), &query)
                .await
                .is_ok()
            {
                return Some(ty.to_owned());
            }
        }
        None
    }));
    looked.await.into_iter().flatten().collect()
}
