//! Finding `libascendcl.so`.

use std::ffi::CString;

use super::codes::unavailable;
use super::driver::{LIBRARY, Runtime};
use crate::error::Result;
use crate::os::dynamic::Library;
use crate::os::{env, file};

/// The file in which the installer records the installation.
const INSTALLED: &str = "/etc/Ascend/ascend_cann_install.info";
/// The variables that CANN's set_env.sh sets to the folder of an installation.
const HOMES: [&str; 2] = ["ASCEND_TOOLKIT_HOME", "ASCEND_HOME_PATH"];
/// The default folder of the installer.
const DEFAULT_PATH: &str = "/usr/local/Ascend";

/// Open the runtime: the one that the process has loaded, else the first that can be opened. If that lacks a function the
/// search ends, because a process can have only one runtime.
pub fn open() -> Result<Runtime> {
    if let Some(library) = Library::already_open(LIBRARY) {
        return of(library);
    }
    let mut looked = String::from("not open in this process");
    match Library::open(LIBRARY) {
        Ok(library) => return of(library),
        Err(why) => looked.extend(["; ", &why]),
    }
    let installed = file::read_text(INSTALLED);
    for candidate in candidates(env::secure, installed.as_deref()) {
        match candidate {
            Candidate::Nothing(why) => looked.extend(["; ", &why]),
            Candidate::Home(home) => {
                let mut is_there = false;
                let paths = libraries(&home).filter_map(|path| CString::new(path).ok());
                for path in paths.filter(|path| file::exists(path)) {
                    is_there = true;
                    match Library::open(&path) {
                        Ok(library) => return of(library),
                        Err(why) => looked.extend(["; ", &why]),
                    }
                }
                if !is_there {
                    looked.extend(["; not in ", &home]);
                }
            }
        }
    }
    Err(unavailable(
        format!("libascendcl.so was not found: {looked}"),
        "Source CANN's set_env.sh before the program starts, or link the program with the library",
    ))
}

fn of(library: Library) -> Result<Runtime> {
    Runtime::of(&library).map_err(|function| {
        let path = library.path().unwrap_or_else(|| "libascendcl.so".to_owned());
        library.close();
        unavailable(format!("{path} has no {function}, so it is broken, or is not a runtime of CANN"), "Install CANN 5 or newer, and make sure that the program finds that one first (LD_LIBRARY_PATH)")
    })
}

/// A step of the search.
#[derive(Debug, PartialEq, Eq)]
enum Candidate {
    /// The folder of an installation.
    Home(String),
    /// A source that names no folder, and why.
    Nothing(String),
}

/// All candidates, in order, without repetitions.
fn candidates(
    variable: impl Fn(&str) -> Option<String>,
    installed: Option<&str>,
) -> Vec<Candidate> {
    let mut found = Vec::new();
    let mut add = |place| {
        if !found.contains(&place) {
            found.push(place);
        }
    };
    for name in HOMES {
        add(match variable(name).filter(|home| !home.is_empty()) {
            Some(home) => Candidate::Home(home.trim_end_matches('/').to_owned()),
            None => Candidate::Nothing(format!("{name} is not set")),
        });
    }
    let paths = installed.map(|text| text.lines().filter_map(install_path).collect::<Vec<_>>());
    match paths.as_deref() {
        None => add(Candidate::Nothing(format!("there is no {INSTALLED}"))),
        Some([]) => add(Candidate::Nothing(format!("{INSTALLED} has no Install_Path"))),
        Some(paths) => paths.iter().flat_map(|path| below(path)).for_each(&mut add),
    }
    below(DEFAULT_PATH).for_each(&mut add);
    found
}

/// The path in a line of [`INSTALLED`].
fn install_path(line: &str) -> Option<&str> {
    let (key, path) = line.split_once('=')?;
    let path = path.trim().trim_end_matches('/');
    (key.trim().ends_with("Install_Path") && !path.is_empty()).then_some(path)
}

/// The folders of installations below a path of the installer; its versions use different names.
fn below(path: &str) -> impl Iterator<Item = Candidate> {
    let homes = ["ascend-toolkit/latest", "latest", "cann", "nnrt/latest", "nnae/latest"];
    homes.into_iter().map(move |home| Candidate::Home(format!("{path}/{home}")))
}

/// The paths of the library in an installation; one for several architectures has a folder for each.
fn libraries(home: &str) -> impl Iterator<Item = String> {
    let folders = ["lib64".to_owned(), format!("{}-linux/lib64", std::env::consts::ARCH)];
    folders.into_iter().map(move |folder| format!("{home}/{folder}/{}", LIBRARY.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(variable: impl Fn(&str) -> Option<String>, installed: Option<&str>) -> Vec<String> {
        let text = |candidate| match candidate {
            Candidate::Home(text) | Candidate::Nothing(text) => text,
        };
        candidates(variable, installed).into_iter().map(text).collect()
    }

    #[test]
    fn places_come_from_the_environment_the_installer_and_habit() {
        let home = |name: &str| (name == "ASCEND_HOME_PATH").then(|| "/opt/cann/".to_owned());
        let noted = "package_name=x\nToolkit_Install_Path=/srv/a/\nInstall_Path = /srv/b\n";
        let all = shown(home, Some(noted));
        let first = ["ASCEND_TOOLKIT_HOME is not set", "/opt/cann", "/srv/a/ascend-toolkit/latest"];
        assert_eq!(all[..3], first);
        for candidate in ["/srv/b/cann", "/usr/local/Ascend/ascend-toolkit/latest"] {
            assert!(all.contains(&candidate.to_owned()), "{candidate} in {all:?}");
        }
        let paths: Vec<_> = libraries("/opt/cann").collect();
        assert_eq!(paths[0], "/opt/cann/lib64/libascendcl.so");
        let architecture = std::env::consts::ARCH;
        assert_eq!(paths[1], format!("/opt/cann/{architecture}-linux/lib64/libascendcl.so"));
    }

    #[test]
    fn what_names_no_place_is_said_and_no_place_comes_twice() {
        let none = shown(|_| None, None);
        assert!(none[2].starts_with("there is no /etc/Ascend/"), "{none:?}");
        assert!(shown(|_| None, Some("x"))[2].ends_with("has no Install_Path"));
        let usual = shown(|_| None, Some("Install_Path=/usr/local/Ascend"));
        assert_eq!(usual.len(), none.len() - 1);
        let same = |_: &str| Some("/usr/local/Ascend/latest".to_owned());
        assert_eq!(shown(same, None).len(), none.len() - 2);
    }
}
