//! Plan of the children, from `oncue.toml`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use oncue_core::config::{Config, FunctionConfig, Limits, Protocol};
use oncue_core::process;

use crate::contract;

/// Everything that is the same for all children of a function.
pub struct Spec {
    /// Name of the app.
    pub app: String,
    /// Name of the function.
    pub name: String,
    /// Program and arguments; none for a service.
    pub run: Vec<String>,
    /// Folder of `oncue.toml`, in which they run.
    pub folder: PathBuf,
    /// Whole environment of a child.
    pub env: Vec<(String, String)>,
    /// Bytes of data that a child may hold.
    pub memory: Option<u64>,
    /// Children side by side.
    pub processes: usize,
    /// Frames or lines.
    pub protocol: Protocol,
    /// Encoded descriptor set of the app.
    pub contract: Bytes,
    /// `[functions.NAME]`: limits, and what a handler that knows nothing of Oncue cannot say of itself.
    pub config: FunctionConfig,
    /// Limits of this very process.
    process: FunctionConfig,
}

impl Spec {
    /// Plan for the function `name`; one child is enough for a question (`asked`).
    ///
    /// # Errors
    /// The file says nothing of how it is run, or its `.proto` files are wrong.
    pub fn new(config: &Config, name: &str, asked: bool) -> Result<Self, String> {
        let of_function = config.function(name);
        if !of_function.is_hosted() {
            let file = config.path.as_deref().unwrap_or(Path::new("oncue.toml"));
            return Err(format!(
                "{}: [functions.{name}] has no `run` and no `http`, such as run = [\"python\", \"-m\", \"oncue\", \"functions/{name}.py\"]",
                file.display()
            ));
        }
        let folder = std::path::absolute(config.beside(Path::new(".")));
        let processes = of_function.processes.unwrap_or(1).max(1) as usize;
        Ok(Self {
            app: config.app.as_str().to_owned(),
            name: name.to_owned(),
            run: of_function.run.clone().unwrap_or_default(),
            folder: folder.map_err(|e| e.to_string())?,
            env: environment(&of_function),
            memory: of_function.memory.map(|size| size.0),
            processes: if asked { 1 } else { processes },
            protocol: of_function.protocol.unwrap_or_default(),
            contract: contract::of_app(config)?.into(),
            config: of_function,
            process: config.process.clone(),
        })
    }

    /// Limits, once the function has said its own.
    pub fn limits(&self, own: &Limits) -> Limits {
        own.clone().with(&self.config).with(&self.process)
    }
}

/// Environment of a child: what every function's process gets, without the platform's own variables, which hold the
/// servers' passwords; and what `oncue.toml` gives it.
fn environment(config: &FunctionConfig) -> Vec<(String, String)> {
    let mut env = process::environment(&config.inherit);
    env.retain(|(name, _)| {
        let is_platform = name.starts_with("ONCUE_") || name.starts_with("OTEL_");
        !is_platform || config.inherit.contains(name)
    });
    env.extend(config.env.clone());
    env
}
