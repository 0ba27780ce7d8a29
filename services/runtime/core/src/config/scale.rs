//! Scaling: how many processes of a function `oncue up` may run.

use std::time::Duration;

use super::FunctionConfig;

/// Bounds of one function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Provisioned: so many run even when there is nothing to do.
    pub min: u32,
    /// Most that run, at least `min`.
    pub max: u32,
    /// Time that fewer must have been enough before one is stopped.
    pub idle: Duration,
}

impl Scale {
    /// Whether there is anything to decide.
    pub fn is_fixed(&self) -> bool {
        self.min == self.max
    }
}

impl FunctionConfig {
    /// Bounds by `min`, `max` and `idle`, or by `replicas` for both. Default 1, 1 and 60 s.
    pub fn scale(&self) -> Scale {
        let min = self.min.or(self.replicas).unwrap_or(1);
        let max = self.max.or(self.replicas).unwrap_or(min.max(1));
        let idle = self.idle.map_or(Duration::from_mins(1), |idle| idle.0);
        Scale { min, max, idle }
    }

    /// Checks bounds that the types of the fields cannot check. Fails with the reason for people.
    pub(super) fn check_scale(&self) -> Result<(), String> {
        let Scale { min, max, .. } = self.scale();
        if self.replicas.is_some() && (self.min.is_some() || self.max.is_some()) {
            return Err(
                "either `replicas` or `min` and `max`, since `replicas` is short for both".into(),
            );
        }
        if min > max {
            return Err(format!("min = {min} is more than max = {max}"));
        }
        if self.max == Some(0) {
            return Err("max = 0 would never run it; take it out of the file instead".into());
        }
        Ok(())
    }
}
