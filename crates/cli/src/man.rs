//! `everhold man`: the manual pages, made of the same words as `--help`, so that neither can say what the
//! other does not.

use crate::args::Cli;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::line;
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io;
use std::path::Path;

/// Writes one page for the program and one for each command, in section 1.
pub(crate) fn run(dir: &Path) -> CliResult {
    if !dir.is_dir() {
        return Err(CliError::new(
            Exit::NotFound,
            format!("{} is not a directory", dir.display()),
            "create the directory first, or name one that exists",
        ));
    }
    let pages = pages().map_err(|e| CliError::local("manual pages", &e))?;
    for (name, text) in &pages {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(|e| {
            CliError::new(
                Exit::Failed,
                format!("{} cannot be written: {e}", path.display()),
                "name a directory that you may write to, or run it as root",
            )
        })?;
    }
    line(format!("{} manual pages are in {}", pages.len(), dir.display()))
}

/// File names and texts of all pages.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    // clap fills in the global options and the full names of commands when it builds.
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = Vec::new();
    let mut left = vec![program];
    while let Some(command) = left.pop() {
        pages.push(page(&command)?);
        left.extend(command.get_subcommands().filter(|child| !child.is_hide_set()).cloned());
    }
    Ok(pages)
}

/// One page, such as `everhold-mount-ls.1`.
fn page(command: &Command) -> io::Result<(String, Vec<u8>)> {
    let name = command.get_display_name().unwrap_or(command.get_name()).to_string();
    let version = concat!("everhold ", env!("CARGO_PKG_VERSION"));
    let mut text = Vec::new();
    Man::new(command.clone()).source(version).manual("Everhold").render(&mut text)?;
    Ok((format!("{name}.1"), text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Each command has a page, and the page names its options, arguments and commands.
    #[test]
    fn every_command_has_its_page() {
        let pages: BTreeMap<String, String> = pages()
            .unwrap()
            .into_iter()
            // roff writes a hyphen that must not be broken as `\-`.
            .map(|(name, text)| (name, String::from_utf8(text).unwrap().replace("\\-", "-")))
            .collect();
        let mut program = Cli::command();
        program.build();
        let mut seen = 0;
        let mut left = vec![("everhold".to_string(), program)];
        while let Some((name, command)) = left.pop() {
            seen += 1;
            let page = &pages[&format!("{name}.1")];
            assert!(page.contains(&format!(".SH NAME\n{name} - ")), "{name}: {page}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                let id = argument.get_id().as_str();
                let word = match argument.get_long() {
                    Some(long) => format!("--{long}"),
                    None => {
                        argument.get_value_names().map_or(id.into(), |names| names[0].to_string())
                    }
                };
                assert!(page.contains(&word), "{name} does not tell of {word}: {page}");
            }
            for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
                let child_name = format!("{name}-{}", child.get_name());
                assert!(page.contains(&format!("{child_name}(1)")), "{name}: {child_name}");
                left.push((child_name, child.clone()));
            }
        }
        assert_eq!(seen, pages.len());
    }
}
