//! Compares `docs/settings.md` with the settings that the code declares, and writes it.

use std::path::Path;

use crate::config::SettingRow;
use crate::{config, device, heap, huge_policy};

/// The command that writes the page.
const COMMAND: &str = "GMEM_WRITE_SETTINGS=1 cargo test --lib settings_table";

fn rows() -> Vec<SettingRow> {
    let mut rows = vec![config::LOG.row(), huge_policy::HUGE_PAGES.row(), device::DEVICE.row()];
    rows.extend(device::settings().into_iter().map(|(_, row)| row));
    rows.extend(heap::settings::rows());
    rows
}

fn page() -> String {
    let mut page = format!(
        "# Settings\n\n<!-- Made from the declarations in the code: {COMMAND} -->\n\n\
         libgmem reads these environment variables once, when it first needs them. Set-user-id programs ignore them. An empty \
         value\nmeans that a variable is not set. A bad value is ignored and, with `GMEM_LOG=error`, reported on \
         stderr.\n\nThe devices are {}.\n\n\
         | variable | values | default | what it does |\n| --- | --- | --- | --- |\n",
        device::names().iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
    );
    for SettingRow { name, form, default, about } in rows() {
        page += &format!("| `{name}` | {form} | {default} | {about} |\n");
    }
    page
}

#[test]
fn the_page_in_docs_has_all_settings() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let page = page();
    if std::env::var_os("GMEM_WRITE_SETTINGS").is_some() {
        assert!(std::fs::write(&path, &page).is_ok(), "cannot write {}", path.display());
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page, "docs/settings.md differs from the code; write it with\n{COMMAND}");
}

#[test]
fn a_device_declares_its_own_settings_only() {
    for (device, row) in device::settings() {
        let prefix = format!("GMEM_{}_", device.to_uppercase());
        assert!(row.name.starts_with(&prefix) || device == "host", "{} of {device}", row.name);
    }
}
