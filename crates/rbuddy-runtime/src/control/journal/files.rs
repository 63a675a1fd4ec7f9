//! The files of a journal: numbered, so that none is ever renamed and their order is plain. The newest is written at its end; the oldest is removed when
//! there are too many.

use crate::settings::JournalSettings;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

/// All files of a folder, oldest first.
pub fn journal_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(numbered(folder)?.into_iter().map(|(_, path)| path).collect())
}

/// The file that is written now.
#[derive(Debug)]
pub(super) struct Current {
    file: File,
    pub(super) bytes: u64,
}

impl Current {
    /// Where the next part goes: into the newest file while that is small, so that an rbuddy that starts again and again does not push out what led to it;
    /// else into a new one.
    pub(super) fn open(folder: &Path, settings: &JournalSettings) -> io::Result<Current> {
        std::fs::create_dir_all(folder)?;
        let mut files = numbered(folder)?;
        let mut next = 1;
        if let Some((number, path)) = files.last() {
            let mut current = Current::append(path)?;
            if current.bytes < settings.size_bytes {
                current.end_line()?;
                return Ok(current);
            }
            next = number + 1;
        }
        // Before the new one is made: on a full disk this is where its room comes from.
        while files.len() >= settings.files.max(1) {
            let (_, oldest) = files.remove(0);
            std::fs::remove_file(oldest)?;
        }
        Current::append(&folder.join(format!("{next:06}.{EXTENSION}")))
    }

    fn append(path: &Path) -> io::Result<Current> {
        let file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Current { file, bytes })
    }

    /// What a crash or a full disk left half written stays a line of its own.
    fn end_line(&mut self) -> io::Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        let mut last = [0];
        self.file.seek(SeekFrom::End(-1))?;
        self.file.read_exact(&mut last)?;
        if last == *b"\n" { Ok(()) } else { self.write("") }
    }

    /// One line. It survives the end of the process; a power cut may take the last seconds.
    pub(super) fn write(&mut self, line: &str) -> io::Result<()> {
        let line = format!("{line}\n");
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        Ok(())
    }
}

fn numbered(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let (Some(number), Some(EXTENSION)) = (number, path.extension().and_then(|extension| extension.to_str())) {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

const EXTENSION: &str = "ndjson";
