//! `completions` and `man`: what shells and `man` know of the commands.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{
    Arguments,
    exit::{Exit, Failure},
    file::{NewFile, named},
    output,
};

/// Prints what the shell reads to complete commands.
pub fn completions(shell: Shell) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "mockforge", &mut text);
    print(&text)?;
    Ok(Exit::Passed)
}

#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder to write a page for each command into; without one, that of `mockforge` is printed
    folder: Option<PathBuf>,
}

pub fn man(args: &ManArgs) -> Result<Exit, Failure> {
    let mut command = Arguments::command();
    // Options that every command takes are written down in each.
    command.build();
    let Some(folder) = &args.folder else {
        print(&page(command)?.1)?;
        return Ok(Exit::Passed);
    };
    std::fs::create_dir_all(folder).map_err(|error| named(folder, error))?;
    let mut pages = 0;
    write_pages(folder, command, &mut pages)?;
    output::line(format!("wrote {} to {}", output::count(pages, "page"), folder.display()))?;
    Ok(Exit::Passed)
}

/// Of the command and of those below it: `mockforge-mqtt-record.1`.
fn write_pages(folder: &Path, command: Command, pages: &mut u64) -> Result<(), Failure> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        write_pages(folder, below.clone(), pages)?;
    }
    let (name, page) = page(command)?;
    let mut file = NewFile::create(&folder.join(name))?;
    file.write_all(&page)?;
    file.finish()?;
    *pages += 1;
    Ok(())
}

/// What its file is called, and what is in it.
fn page(command: Command) -> io::Result<(String, Vec<u8>)> {
    let (man, mut page) = (Man::new(command), Vec::new());
    man.render(&mut page)?;
    Ok((man.get_filename(), page))
}

fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text).and_then(|()| stdout.flush());
    written.map_err(|error| named(Path::new("-"), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let folder = tempfile::tempdir().unwrap();
        man(&ManArgs { folder: Some(folder.path().to_owned()) }).unwrap();
        let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let record = page("mockforge-mqtt-record.1");
        assert!(record.contains("\\-\\-duration") && record.contains("\\-\\-server"), "{record}");
        assert!(page("mockforge.1").contains("mockforge\\-serve(1)"), "{}", page("mockforge.1"));
    }

    #[test]
    fn every_shell_has_its_completions() {
        for (shell, expected) in [
            (Shell::Bash, "complete -F _mockforge"),
            (Shell::Zsh, "#compdef mockforge"),
            (Shell::Fish, "complete -c mockforge"),
            (Shell::PowerShell, "Register-ArgumentCompleter"),
            (Shell::Elvish, "edit:completion:arg-completer[mockforge]"),
        ] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "mockforge", &mut text);
            let text = String::from_utf8(text).unwrap();
            assert!(text.contains(expected) && text.contains("mqtt-port"), "{shell}");
        }
    }
}
