//! What hosts install: the same bytes from two builds, clean by the distributions' own tools, and gone when it is gone.

use std::{
    fs, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path, process::Command, sync::OnceLock,
};

use flate2::read::ZlibDecoder;
use serde_json::Value;
use stealtrace_tests::{
    Run,
    monitoring::{Folder, dist, peer},
    run, stealtrace, xtask,
};

/// Where they are, built and packed twice; a run that differs has failed.
fn packages() -> &'static Path {
    static MADE: OnceLock<Run> = OnceLock::new();
    let made = MADE.get_or_init(|| run(xtask().args(["package", "--twice"])));
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert_eq!(made.stdout.lines().count(), 4, "deb, rpm, tar.gz, oci");
    made.stdout.lines().find_map(|package| Path::new(package).parent()).expect("a folder")
}

/// Run a script as root in a Debian that forgets it, with the packages in /mnt; what it printed.
fn inside(system: &str, script: &str) -> String {
    let Run { code, stdout, stderr } =
        run(Command::new(peer(system)).arg(packages()).args(["sh", "-ec", script]));
    assert_eq!(code, 0, "{stdout}{stderr}");
    stdout
}

#[test]
fn the_deb_is_installed_upgraded_and_purged_without_a_trace() {
    let shown = inside(
        "debian",
        r#"
        everything() { find / -xdev ! -path "/var/lib/dpkg/*" ! -path "/var/log/*" ! -path "/tmp/*" | sort; }
        link=/etc/systemd/system/multi-user.target.wants/stealtrace-export.service
        everything > /tmp/before
        dpkg-deb -R /mnt/*.deb /tmp/older
        sed -i 's/^Version: .*/Version: 0.0.1-1/' /tmp/older/DEBIAN/control
        dpkg-deb -b /tmp/older /tmp/older.deb > /dev/null
        dpkg -i /tmp/older.deb > /dev/null
        test ! -e "$link"
        stealtrace --version
        mkdir -p "${link%/*}"
        ln -s /usr/lib/systemd/system/stealtrace-export.service "$link"
        dpkg -i /mnt/*.deb > /dev/null
        dpkg-query -W -f 'installed ${Version}\n' stealtrace
        test -e "$link"
        dpkg --verify stealtrace
        dpkg --purge stealtrace > /dev/null
        everything > /tmp/after
        diff /tmp/before /tmp/after && echo "nothing is left"
        "#,
    );
    let version = run(stealtrace().arg("--version")).stdout;
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines, [version.trim(), "installed 0.1.0-1", "nothing is left"]);
}

#[test]
fn the_rpm_is_installed_upgraded_and_erased_without_a_trace() {
    let shown = inside(
        "tools",
        r#"
        everything() { find / -xdev ! -path "/var/lib/rpm*" ! -path "$HOME/*" ! -path "/tmp/*" | sort; }
        : folders that another package of such a host has
        mkdir -p /usr/share/licenses /usr/share/zsh/site-functions /usr/share/fish/vendor_completions.d
        everything > /tmp/before
        rpm -i --nodeps --force-debian /mnt/*.rpm
        stealtrace --version
        rpm -U --nodeps --force-debian --force /mnt/*.rpm
        rpm -V --nodeps stealtrace
        rpm -e stealtrace
        everything > /tmp/after
        diff /tmp/before /tmp/after && echo "nothing is left"
        "#,
    );
    let version = run(stealtrace().arg("--version")).stdout;
    assert_eq!(shown.lines().collect::<Vec<_>>(), [version.trim(), "nothing is left"]);
}

#[test]
fn lintian_has_nothing_to_say() {
    let script = "lintian --allow-root --fail-on error,warning,info --tag-display-limit 0 /mnt/*.deb";
    let said = inside("tools", script);
    assert!(!said.lines().any(|line| line.starts_with(['E', 'W', 'I'])), "{said}");
}

#[test]
fn rpmlint_has_nothing_to_say_that_is_not_explained() {
    let explained = packages().join("rpmlint.toml");
    fs::copy(dist("rpmlint.toml"), &explained).expect("copied");
    let said = inside("tools", "rpmlint --config /mnt/rpmlint.toml /mnt/*.rpm");
    fs::remove_file(explained).expect("removed");
    assert!(said.contains(" 0 errors, 0 warnings"), "{said}");
}

#[test]
fn the_archive_runs_where_it_is_unpacked() {
    let shown = inside(
        "debian",
        r"
        tar -xzf /mnt/*.tar.gz -C /usr/local --strip-components=2
        /usr/local/bin/stealtrace rules steal-underflow | head -n 1
        ls /usr/local/lib/systemd/system /usr/local/share/man/man1/stealtrace-export.1.gz
        ",
    );
    assert!(shown.starts_with("steal-underflow"), "{shown}");
    assert!(shown.contains("stealtrace-export.socket"), "{shown}");
}

#[test]
fn the_image_is_the_binary_alone() {
    let shown = inside(
        "tools",
        r#"
        mkdir /tmp/image && tar -xf /mnt/stealtrace-[0-9]*.oci.tar -C /tmp/image
        buildah="buildah --storage-driver vfs"
        container=$($buildah from oci:/tmp/image)
        mounted=$($buildah mount "$container")
        find "$mounted" -type f -printf '%P %m\n'
        $buildah inspect --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' "$container"
        echo
        chroot "$mounted" /usr/bin/stealtrace --version
        "#,
    );
    let version = run(stealtrace().arg("--version")).stdout;
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines, ["usr/bin/stealtrace 755", "[/usr/bin/stealtrace] [--help]", version.trim()]);
}

#[test]
fn a_subcommand_has_its_page_and_shells_complete_it() {
    let help = run(stealtrace().arg("--help")).stdout;
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    let files = inside("debian", "dpkg-deb --fsys-tarfile /mnt/*.deb | tar -t");
    let bash = inside(
        "debian",
        "dpkg-deb -x /mnt/*.deb /tmp/it; cat /tmp/it/usr/share/bash-completion/completions/stealtrace; \
         bash -n /tmp/it/usr/share/bash-completion/completions/stealtrace",
    );
    for name in names.iter().filter(|name| **name != "help") {
        assert!(files.contains(&format!("/stealtrace-{name}.1.gz\n")), "{name}");
        assert!(bash.contains(&format!("stealtrace__{name}")) || bash.contains(name), "{name}");
    }
    assert!(names.len() > 10, "{help}");
}

#[test]
fn the_binary_says_what_it_is_made_of() {
    let list = std::env::temp_dir().join(format!("stealtrace-made-of-{}", std::process::id()));
    let binary = stealtrace().get_program().to_owned();
    let only = format!(".dep-v0={}", list.display());
    let dumped = run(Command::new("objcopy").args(["--dump-section", &only]).arg(&binary).arg("/dev/null"));
    assert_eq!(dumped.code, 0, "{}", dumped.stderr);
    let mut text = String::new();
    let bytes = fs::read(&list).expect("written");
    ZlibDecoder::new(&bytes[..]).read_to_string(&mut text).expect("deflated JSON");
    fs::remove_file(list).expect("removed");
    let made_of: Value = serde_json::from_str(&text).expect("JSON");
    let has =
        |name: &str| made_of["packages"].as_array().into_iter().flatten().any(|one| one["name"] == name);
    assert!(has("aya") && has("btf-rs") && has("stealtrace"), "{text}");
}

/// As in a kernel's CI: by another user than root, without network, and nothing mounted but the kernel.
#[test]
fn the_labs_container_gates_a_kernel_without_a_checkout() {
    let image = run(xtask().args(["lab", "container"]));
    assert_eq!(image.code, 0, "{}", image.stderr);
    let files = run(xtask().args(["lab", "files", "stock-6.1"]));
    let folder = Folder::new("gate");
    let kernel = folder.make("kernel");
    fs::set_permissions(&kernel, fs::Permissions::from_mode(0o777)).expect("ours");
    for file in files.stdout.lines().map(Path::new) {
        fs::copy(file, kernel.join(file.file_name().expect("a name"))).expect("copied");
    }
    fs::copy(image.stdout.trim(), folder.make("").join("lab.oci.tar")).expect("copied");
    let script = r#"
        mkdir /tmp/image && tar -xf /mnt/lab.oci.tar -C /tmp/image
        buildah="buildah --storage-driver vfs"
        container=$($buildah from --quiet oci:/tmp/image)
        $buildah run --isolation chroot --user 1000:1000 --volume /mnt/kernel:/k "$container" -- \
            /usr/bin/xtask lab verify --image /k/vmlinuz --modules /k --junit /k/steal.xml \
            --scenario same-thread --scenario restore-by-main-thread --scenario replug
    "#;
    let gated = run(Command::new(peer("tools")).arg(folder.make("")).args(["sh", "-ec", script]));
    assert_eq!(gated.code, 0, "{}{}", gated.stdout, gated.stderr);
    assert!(gated.stdout.contains("-amd64: fixed, as expected"), "{}", gated.stdout);
    let junit = fs::read_to_string(kernel.join("steal.xml")).expect("written");
    assert!(
        junit.contains("tests=\"9\" failures=\"0\" errors=\"0\""),
        "three scenarios by three backends: {junit}"
    );
}
