//! Files of the app, in the object store: read as a stream or whole, written, deleted.
//!
//! Not part of the commit, unlike state and events: a run that is repeated writes once more. So give objects names that a
//! second run gives again, such as the id of the file that they were made of.
//!
//! ```
//! # use oncue::{Context, Result, reject};
//! async fn size(file: &str, context: &Context) -> Result<u64> {
//!     let Some(stored) = context.files().stat(file).await? else {
//!         return Err(reject("the file is gone"));
//!     };
//!     Ok(stored.size)
//! }
//! ```

use bytes::Bytes;
use futures_util::future::Either;
use futures_util::{Stream, StreamExt};
use oncue_core::app::AppName;
use oncue_core::bus::Bus;
use oncue_core::model::manifest::FileUse;

use crate::error::{Error, Result, reject};
use crate::operator::Operator;

pub use oncue_core::bus::objects::Object;

/// Stored files, by object name: those that clients uploaded, under their ids, and those that functions made.
pub struct Files<'c> {
    store: &'c FileStore,
    function: &'static str,
    /// Use that the function has declared.
    declared: FileUse,
}

/// Where the files of a run are.
#[derive(Clone)]
pub(crate) enum FileStore {
    /// Nowhere: in a unit test.
    Absent,
    /// Behind the connection of the worker.
    Bus(Bus),
    /// With the program that tries the function: it reads them, and writes none.
    Operator(Operator),
    /// In the test kit.
    #[cfg(feature = "testing")]
    Memory(FilesInMemory),
}

/// Files of the test kit, by name.
#[cfg(feature = "testing")]
#[derive(Clone, Default)]
pub(crate) struct FilesInMemory(
    std::sync::Arc<parking_lot::Mutex<std::collections::BTreeMap<String, (Object, Bytes)>>>,
);

#[cfg(feature = "testing")]
impl FilesInMemory {
    /// Stores a file, in place of one of this name.
    pub fn put(&self, name: &str, metadata: &[(&str, &str)], bytes: Bytes) -> Object {
        let object = Object::of_bytes(&AppName::default().bucket(), name, metadata, &bytes);
        let file = (object.clone(), bytes);
        self.0.lock().insert(name.to_owned(), file);
        object
    }

    /// Description and content of a file.
    pub fn get(&self, name: &str) -> Option<(Object, Bytes)> {
        self.0.lock().get(name).cloned()
    }

    /// Name and digest of all, by name.
    pub fn digests(&self) -> Vec<(String, String)> {
        let files = self.0.lock();
        let files = files
            .iter()
            .map(|(name, (object, _))| (name.clone(), object.digest.clone()));
        files.collect()
    }
}

/// All parts in one.
async fn whole(
    mut parts: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(part) = parts.next().await {
        bytes.extend_from_slice(&part?);
    }
    Ok(bytes)
}

/// Error of a context without files.
fn absent() -> Error {
    Error::retry("this context has no files")
}

impl<'c> Files<'c> {
    pub(crate) fn new(store: &'c FileStore, function: &'static str, declared: FileUse) -> Self {
        Self {
            store,
            function,
            declared,
        }
    }

    /// Refuses a use that the function has not declared.
    fn must_declare(&self, wanted: FileUse) -> Result<()> {
        if self.declared >= wanted {
            return Ok(());
        }
        let function = self.function;
        let what = match wanted {
            FileUse::Write => "writes files: add `.writes_files()`",
            _ => "reads files: add `.reads_files()`",
        };
        Err(reject(format!(
            "{function} does not declare that it {what} to the function"
        )))
    }

    /// Size, digest and metadata; `None` when there is no such file (any more).
    pub async fn stat(&self, name: &str) -> Result<Option<Object>> {
        self.must_declare(FileUse::Read)?;
        match self.store {
            FileStore::Absent => Err(absent()),
            FileStore::Bus(bus) => Ok(bus.object(name).await?),
            FileStore::Operator(operator) => Ok(operator.file(name).await?),
            #[cfg(feature = "testing")]
            FileStore::Memory(files) => Ok(files.get(name).map(|(object, _)| object)),
        }
    }

    /// Content of a file that was found.
    pub(crate) fn content(
        &self,
        object: Object,
    ) -> Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
        match self.store {
            FileStore::Absent => Err(absent()),
            FileStore::Bus(bus) => Ok(Either::Left(bus.read_object(&object, 0..object.size))),
            FileStore::Operator(operator) => Ok(Either::Right(operator.read_file(object).boxed())),
            #[cfg(feature = "testing")]
            FileStore::Memory(files) => {
                let bytes = files.get(&object.name).map(|(_, bytes)| Ok(bytes));
                Ok(Either::Right(futures_util::stream::iter(bytes).boxed()))
            }
        }
    }

    /// Content as a stream; a few hundred KiB of memory whatever the size. Fails at the end if the digest is wrong.
    pub async fn open(
        &self,
        name: &str,
    ) -> Result<Option<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>>> {
        let object = self.stat(name).await?;
        object.map(|object| self.content(object)).transpose()
    }

    /// Content as a whole, `None` when there is no such file.
    ///
    /// # Errors
    /// A rejection when there are more than `limit` bytes; a retry when the bus does not answer.
    pub async fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(object) = self.stat(name).await? else {
            return Ok(None);
        };
        if object.size > limit {
            return Err(reject(format!(
                "file {name} has {} bytes, more than the {limit} allowed",
                object.size
            )));
        }
        let parts = std::pin::pin!(self.content(object)?);
        Ok(Some(whole(parts).await?))
    }

    /// Stores `bytes` under `name` with `metadata`, pairs of name and value. A file of this name is replaced. In a dry run
    /// only the object is made that would stand for it.
    pub async fn put(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        bytes: impl Into<Bytes>,
    ) -> Result<Object> {
        let part = futures_util::stream::iter([Ok(bytes.into())]);
        self.put_stream(name, metadata, part).await
    }

    /// [`put`](Self::put) of parts as they come; a few hundred KiB of memory whatever the size. A part that is an error ends
    /// it, and nothing is left behind.
    pub async fn put_stream(
        &self,
        name: &str,
        metadata: &[(&str, &str)],
        parts: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
    ) -> Result<Object> {
        self.must_declare(FileUse::Write)?;
        match self.store {
            FileStore::Absent => Err(absent()),
            FileStore::Bus(bus) => Ok(bus.put_object(name, metadata, parts, u64::MAX).await?),
            // Where it would stand is the operator's to know; a handler sees the rest.
            FileStore::Operator(_) => {
                let bytes = whole(parts).await?;
                let bucket = AppName::default().bucket();
                Ok(Object::of_bytes(&bucket, name, metadata, &bytes))
            }
            #[cfg(feature = "testing")]
            FileStore::Memory(files) => Ok(files.put(name, metadata, whole(parts).await?.into())),
        }
    }

    /// Deletes a file; one that is not there is deleted already.
    pub async fn delete(&self, name: &str) -> Result<()> {
        self.must_declare(FileUse::Write)?;
        match self.store {
            FileStore::Absent => Err(absent()),
            FileStore::Bus(bus) => Ok(bus.delete_object(name).await?),
            FileStore::Operator(_) => Ok(()),
            #[cfg(feature = "testing")]
            FileStore::Memory(files) => {
                files.0.lock().remove(name);
                Ok(())
            }
        }
    }
}
