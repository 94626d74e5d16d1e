use std::io::Read as _;

use super::*;

/// A program as it is, and the other end of its output.
fn program(name: &str, args: &[&str]) -> (Program, std::io::PipeReader) {
    let (output, write) = std::io::pipe().unwrap();
    let program = Program {
        name: name.into(),
        args: args.iter().map(Into::into).collect(),
        env: std::env::vars_os().collect(),
        cwd: None,
        identity: None,
        umask: None,
        rlimits: vec![],
        stdout: write.try_clone().unwrap().into(),
        stderr: write.into(),
        sockets: vec![],
        cgroups: vec![],
    };
    (program, output)
}

/// Runs a shell script to its end; what it wrote and how it ended.
fn shell(script: &str, change: impl FnOnce(&mut Program)) -> (String, Exit) {
    let (mut program, mut output) = program("sh", &["-c", script]);
    change(&mut program);
    let leader = spawn(&program).map_err(|e| format!("{}: {}", e.step, e.cause)).unwrap();
    drop(program);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    while leader.exit().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let exit = leader.exit().unwrap().unwrap();
    (text, exit)
}

#[test]
fn a_child_leads_its_session_with_stdin_closed_and_nothing_else_open() {
    let script =
        "cat; ls /proc/$$/fd | tr '\\n' ' '; read -r a b c d e f rest < /proc/$$/stat; echo $$ $e $f; exit 3";
    let (text, exit) = shell(script, |_| ());
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(words[..3], ["0", "1", "2"], "{text}");
    let [.., pid, pgid, session] = words[..] else { panic!("{text}") };
    assert_eq!((pid, pid), (pgid, session));
    assert_eq!(exit, Exit::Code(3));
}

#[test]
fn sockets_are_handed_over_as_systemd_does() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket: Arc<OwnedFd> = Arc::new(listener.into());
    let script = "import os, socket\n\
        assert int(os.environ['LISTEN_PID']) == os.getpid(), os.environ['LISTEN_PID']\n\
        s = socket.socket(fileno=3)\n\
        print(os.environ['LISTEN_FDS'], os.environ['LISTEN_FDNAMES'], s.getsockname()[1], socket.socket(fileno=4) and 1)";
    let (text, _) = shell("", |program| {
        program.name = "python3".into();
        program.args = vec!["-c".into(), script.into()];
        program.sockets = vec![("web".into(), socket.clone()), ("admin".into(), socket)];
    });
    assert_eq!(text, format!("2 web:admin {port} 1\n"));
}

#[test]
fn folder_umask_and_limits_hold() {
    let dir = tempfile::tempdir().unwrap();
    let (text, _) = shell("pwd; umask; ulimit -n", |program| {
        program.cwd = Some(dir.path().canonicalize().unwrap());
        program.umask = Some(0o027);
        program.rlimits = vec![(Resource::OpenFiles, 99, 100)];
    });
    assert_eq!(text, format!("{}\n0027\n99\n", dir.path().canonicalize().unwrap().display()));
}

#[test]
fn another_user_has_its_groups() {
    if own_identity().0 != 0 {
        eprintln!("skipped: only root may become another user");
        return;
    }
    let mut nobody = identity("nobody").unwrap().expect("the user nobody");
    nobody.gid = group_id("daemon").unwrap().expect("the group daemon");
    let (text, _) = shell("id -un; id -gn", |program| program.identity = Some(nobody));
    assert_eq!(text, "nobody\ndaemon\n");
    assert_eq!(identity("no-such-user").unwrap(), None);
}

#[test]
fn a_program_that_cannot_start_is_an_error_with_its_step() {
    let (mut program, _) = program("no-such-program", &[]);
    let error = spawn(&program).unwrap_err();
    assert_eq!(
        (error.step.as_str(), error.cause.kind()),
        ("execute `no-such-program`", io::ErrorKind::NotFound)
    );
    program.cwd = Some("/nowhere".into());
    assert_eq!(spawn(&program).unwrap_err().step, "enter its folder `/nowhere`");
}

#[test]
fn reaping_the_adopted_leaves_the_exit_codes_of_others() {
    become_subreaper().unwrap();
    let mut std_child = std::process::Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
    let (text, exit) = shell("setsid sh -c 'exit 5' & echo $!; exit 4", |_| ());
    assert_eq!(exit, Exit::Code(4));
    let orphan: Pid = text.trim().parse().unwrap();
    let begin = std::time::Instant::now();
    while Path::new(&format!("/proc/{orphan}")).exists() {
        reap_adopted();
        assert!(begin.elapsed().as_secs() < 10, "the orphan is still a zombie");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(std_child.wait().unwrap().code(), Some(7));
}

/// Descriptors are handed over by way of numbers that are free here, which are high where many are open.
#[test]
fn a_limit_on_open_files_does_not_count_what_is_open_here() {
    let many: Vec<File> = (0..100).map(|_| File::open("/dev/null").unwrap()).collect();
    let (text, exit) = shell("ulimit -n", |program| program.rlimits = vec![(Resource::OpenFiles, 40, 40)]);
    assert_eq!((text.trim(), exit), ("40", Exit::Code(0)), "{} open", many.len());
}

#[test]
fn a_group_is_ended_with_what_outlives_its_leader() {
    let script = "trap '' TERM; (trap '' TERM; sleep 1000) & echo $!; exit 0";
    let mut child = std::process::Command::new("sh");
    let mut child = std::os::unix::process::CommandExt::process_group(&mut child, 0)
        .args(["-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 16];
    let n = child.stdout.take().unwrap().read(&mut said).unwrap();
    let inner = String::from_utf8_lossy(&said[..n]).trim().to_owned();
    let is_gone = || {
        let stat = std::fs::read_to_string(format!("/proc/{inner}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    };
    assert!(!is_gone());
    drop(Group::led_by(Pid::try_from(child.id()).unwrap()));
    assert!(is_gone());
    child.wait().unwrap();
}
