//! `oncue vendor`: the crates, or the package for functions in Python or TypeScript, that an app carries in `vendor/`, as they came
//! with this `oncue`. An app carries it so that it can be built wherever its repository goes: no registry has it, and a path of one machine
//! means nothing on another.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::{self, Failure};
use crate::folder::copy;
use crate::settings::{self, Settings};
use crate::terminal::paint::{GOOD, paint, say};

/// Folder of an app with the packages it carries.
const FOLDER: &str = "vendor";
/// Folder that Python makes beside sources.
const BYTE_CODE: &str = "__pycache__";

/// Package for one language.
pub struct Package {
    /// Folder of an installation that has it.
    part: &'static str,
    /// Folder or file in there; empty for the folder itself.
    inside: &'static str,
    /// Name in `vendor/`.
    name: &'static str,
    /// File in it by which it is known; empty for a file itself.
    mark: &'static str,
    /// Command that installs it anew in an app.
    install: &'static str,
}

pub const RUST: Package = Package {
    part: "crates",
    inside: "",
    name: "oncue-crates",
    mark: "oncue/Cargo.toml",
    install: "cargo build",
};
pub const PYTHON: Package = Package {
    part: "python",
    inside: "",
    name: "oncue",
    mark: "pyproject.toml",
    install: ".venv/bin/pip install -r requirements.txt",
};
pub const TYPESCRIPT: Package = Package {
    part: "typescript",
    inside: "oncue.tgz",
    name: "oncue.tgz",
    mark: "",
    install: "npm install ./vendor/oncue.tgz",
};

impl Package {
    /// Where it lies among what was installed; `None` in a checkout.
    pub fn installed(&self) -> Option<PathBuf> {
        Some(settings::installed(self.part)?.join(self.inside))
    }

    /// Whether an app carries it: other packages, such as crates that were vendored, may have the name.
    fn is_carried(&self, app: &Path) -> bool {
        let place = app.join(self.path());
        match self.mark {
            // Of a file with something behind it nothing would exist.
            "" => place.is_file(),
            mark => place.join(mark).exists(),
        }
    }

    /// Path in an app, as pip and npm read it.
    pub fn path(&self) -> String {
        format!("{FOLDER}/{}", self.name)
    }

    /// Puts it into the app of a folder, in place of what is there.
    pub fn copy(&self, source: &Path, app: &Path) -> io::Result<()> {
        let folder = app.join(FOLDER);
        let place = folder.join(self.name);
        let fresh = folder.join(format!("{}.new", self.name));
        fs::create_dir_all(&folder)?;
        remove(&fresh)?;
        copy(source, &fresh, BYTE_CODE)?;
        remove(&place)?;
        fs::rename(fresh, place)
    }
}

pub fn run(settings: &Settings) -> Result<u8, Failure> {
    settings.require_file()?;
    let app = settings.config.beside(Path::new("."));
    let carried: Vec<Package> = [RUST, PYTHON, TYPESCRIPT]
        .into_iter()
        .filter(|package| package.is_carried(&app))
        .collect();
    if carried.is_empty() {
        return Err(Failure::usage(format_args!(
            "{} carries no package of Oncue in {FOLDER}/",
            app.display()
        ))
        .advise("an app has one that `oncue new` of an installed oncue has made"));
    }
    for package in carried {
        let path = package.path();
        let source = package.installed().filter(|source| source.exists());
        let source = source.ok_or_else(|| {
            Failure::failed(format_args!("this oncue came without what goes to {path}"))
                .advise("run the one that `make dist` has packed")
        })?;
        package
            .copy(&source, &app)
            .map_err(|e| Failure::failed(format_args!("{path}: {e}")))?;
        say(format_args!(
            "{} Then: {}",
            paint(GOOD, format_args!("{path} is that of this oncue.")),
            package.install
        ));
    }
    Ok(exit::OK)
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_carries_the_package_of_its_language() {
        let app = std::env::temp_dir().join(format!("oncue-carried-{}", std::process::id()));
        fs::create_dir_all(app.join("vendor/oncue")).unwrap();
        assert!(!PYTHON.is_carried(&app) && !TYPESCRIPT.is_carried(&app));
        fs::write(app.join("vendor/oncue/pyproject.toml"), "").unwrap();
        assert!(PYTHON.is_carried(&app) && !TYPESCRIPT.is_carried(&app));
        fs::write(app.join("vendor/oncue.tgz"), "").unwrap();
        assert!(TYPESCRIPT.is_carried(&app));
        fs::remove_dir_all(app).unwrap();
    }

    #[test]
    fn a_package_takes_the_place_of_the_one_before() {
        let folder = std::env::temp_dir().join(format!("oncue-vendor-{}", std::process::id()));
        let source = folder.join("installed");
        let app = folder.join("app");
        fs::create_dir_all(source.join("oncue/__pycache__")).unwrap();
        fs::write(source.join("oncue/__init__.py"), "new").unwrap();
        fs::create_dir_all(app.join("vendor/oncue")).unwrap();
        fs::write(app.join("vendor/oncue/gone.py"), "old").unwrap();
        PYTHON.copy(&source, &app).unwrap();
        let vendored = app.join("vendor/oncue");
        let text = fs::read_to_string(vendored.join("oncue/__init__.py")).unwrap();
        assert_eq!(text, "new");
        assert!(!vendored.join("gone.py").exists());
        assert!(!vendored.join("oncue/__pycache__").exists());
        fs::remove_dir_all(folder).unwrap();
    }
}
