//! Users and groups by the sandbox's own `/etc/passwd` and `/etc/group`, whatever is in them.

use std::collections::HashMap;

use forkpoint_protocol::ErrorKind;

use crate::failure::{Failure, shown};
use crate::files::read_small;

/// More of a file than this is not looked at.
const MAX_FILE: usize = 1 << 20;
/// Supplementary groups that a user gets; the kernel takes more, nobody needs them.
const MAX_GROUPS: usize = 256;

/// Whom a command runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups, the primary one among them.
    pub(crate) groups: Vec<u32>,
    pub(crate) name: String,
    pub(crate) home: Vec<u8>,
    pub(crate) shell: Vec<u8>,
}

/// Both files, as read at one moment.
#[derive(Debug, Default)]
pub(crate) struct Users {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Users {
    /// Reads both files; one that is missing or is no regular file counts as empty.
    pub(crate) fn load() -> Users {
        let read = |path: &[u8]| read_small(path, MAX_FILE).unwrap_or_default();
        Users { passwd: read(b"/etc/passwd"), group: read(b"/etc/group") }
    }

    /// `user[:group]`, each by name or number. A number need not be in the files; a user without
    /// an entry has the group of its own number. `root` is always there.
    pub(crate) fn account(&self, wanted: &str) -> Result<Account, Failure> {
        let (user, group) = match wanted.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (wanted, None),
        };
        let mut account = match self.passwd_entry(user) {
            Some(account) => account,
            None => match (user, number(user)) {
                ("root", _) | (_, Some(0)) => bare(0, "root", b"/root"),
                (_, Some(uid)) => bare(uid, user, b"/"),
                _ => return Err(no_such("user", user, "/etc/passwd")),
            },
        };
        if let Some(group) = group {
            account.gid = self.group_number(group).ok_or_else(|| no_such("group", group, "/etc/group"))?;
        }
        account.groups = self.groups_of(&account);
        Ok(account)
    }

    /// Names by number, for descriptions of many files.
    pub(crate) fn names(&self) -> Names {
        let by_number = |file: &[u8]| {
            let mut names = HashMap::new();
            for fields in records(file) {
                if let (Some(name), Some(id)) = (fields.first(), fields.get(2).and_then(|id| parse(id))) {
                    names.entry(id).or_insert_with(|| String::from_utf8_lossy(name).into_owned());
                }
            }
            names
        };
        Names { users: by_number(&self.passwd), groups: by_number(&self.group) }
    }

    fn passwd_entry(&self, user: &str) -> Option<Account> {
        let uid = number(user);
        // A name that looks like a number is taken for the number, as everywhere.
        let found = records(&self.passwd).find(|fields| match uid {
            Some(uid) => fields.get(2).and_then(|id| parse(id)) == Some(uid),
            None => fields[0] == user.as_bytes(),
        })?;
        let field = |index: usize| found.get(index).copied().unwrap_or_default();
        let or = |value: &[u8], default: &[u8]| {
            if value.is_empty() { default.to_vec() } else { value.to_vec() }
        };
        Some(Account {
            uid: parse(field(2))?,
            gid: parse(field(3))?,
            groups: Vec::new(),
            name: String::from_utf8_lossy(field(0)).into_owned(),
            home: or(field(5), b"/"),
            shell: or(field(6), b"/bin/sh"),
        })
    }

    fn group_number(&self, group: &str) -> Option<u32> {
        number(group).or_else(|| {
            records(&self.group).find(|fields| fields[0] == group.as_bytes()).and_then(|fields| parse(fields.get(2)?))
        })
    }

    fn groups_of(&self, account: &Account) -> Vec<u32> {
        let mut groups = vec![account.gid];
        for fields in records(&self.group) {
            let members = fields.get(3).copied().unwrap_or_default();
            let is_member = members.split(|byte| *byte == b',').any(|member| member == account.name.as_bytes());
            let Some(gid) = fields.get(2).and_then(|id| parse(id)) else {
                continue;
            };
            if is_member && !groups.contains(&gid) && groups.len() < MAX_GROUPS {
                groups.push(gid);
            }
        }
        groups
    }
}

/// Names of users and groups by number.
#[derive(Debug, Default)]
pub(crate) struct Names {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Names {
    pub(crate) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_default()
    }

    pub(crate) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }
}

fn bare(uid: u32, name: &str, home: &[u8]) -> Account {
    Account {
        uid,
        gid: uid,
        groups: Vec::new(),
        name: name.to_owned(),
        home: home.to_vec(),
        shell: b"/bin/sh".to_vec(),
    }
}

fn no_such(what: &str, name: &str, file: &str) -> Failure {
    Failure::new(ErrorKind::NoSuchUser, format!("no {what} `{}` in {file} of the sandbox", shown(name.as_bytes())))
}

/// Lines split at colons; comments, empty lines and lines without a name are left out.
fn records(file: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    file.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty() && line[0] != b'#' && line[0] != b':' && !line.contains(&0))
        .map(|line| line.splitn(7, |byte| *byte == b':').collect())
}

fn number(text: &str) -> Option<u32> {
    parse(text.as_bytes())
}

/// Decimal digits only; the all-ones number means "no change" to the kernel and is no id.
fn parse(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> Users {
        Users {
            passwd: b"root:x:0:0:root:/root:/bin/bash\n\
                # comment\n::\nbroken\nbad:x:abc:1::/:/x\n\
                sandbox:x:1000:1001:,,,:/home/sandbox:/bin/bash\n\
                bare:x:5:6\nminus:x:4294967295:0::/:\nlong:x:99999999999:0::/:\n\xff\xfe:x:77:77::/x:/y\n"
                .to_vec(),
            group:
                b"root:x:0:\ndocker:x:50:a,sandbox\nsandbox:x:1001:\nx:x:1001:sandbox\nbroken:x\nvideo:x:44:sandbox,b\n"
                    .to_vec(),
        }
    }

    #[test]
    fn a_name_gives_ids_home_shell_and_groups() {
        let account = users().account("sandbox").unwrap();
        assert_eq!((account.uid, account.gid), (1000, 1001));
        assert_eq!(account.groups, [1001, 50, 44]);
        assert_eq!((&account.home[..], &account.shell[..]), (&b"/home/sandbox"[..], &b"/bin/bash"[..]));
    }

    #[test]
    fn numbers_are_looked_up_and_may_be_unknown() {
        assert_eq!(users().account("1000").unwrap().name, "sandbox");
        let unknown = users().account("4242").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.groups), (4242, 4242, vec![4242]));
        let both = users().account("1000:50").unwrap();
        assert_eq!((both.uid, both.gid), (1000, 50));
        assert_eq!(users().account("sandbox:video").unwrap().gid, 44);
    }

    #[test]
    fn hostile_lines_give_no_account() {
        for name in ["broken", "bad", "minus", "long", "nobody", "", "4294967295", "-1", "+0", "root\n"] {
            let error = users().account(name).unwrap_err();
            assert_eq!(error.kind, ErrorKind::NoSuchUser, "{name}");
        }
        assert_eq!(users().account("bare").unwrap().home, b"/");
    }

    #[test]
    fn root_exists_without_files() {
        let root = Users::default().account("root").unwrap();
        assert_eq!((root.uid, root.gid, &root.home[..]), (0, 0, &b"/root"[..]));
        assert!(Users::default().account("sandbox").is_err());
    }
}
