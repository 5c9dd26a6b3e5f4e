//! The system calls that need no look at their arguments, by subject, with the reason.
//!
//! Not listed and so `ENOSYS` on purpose: `clone3` (its flags are behind a pointer, and C libraries fall back to
//! `clone`), `statmount` and `listmount` (tell about mounts more than /proc does), `memfd_secret` (memory that cannot
//! be saved), `io_setup` and its kin (the host has one budget of events for all, `fs.aio-max-nr`, which one sandbox
//! could take whole; programs fall back to threads), `modify_ldt`, `uselib`, `sysfs` and others that nothing of today
//! uses.

use libc::*;

/// Numbers that the C library crate does not name on every architecture.
pub(super) mod number {
    #[cfg(target_arch = "x86_64")]
    mod own {
        pub(in crate::seccomp) const GETRLIMIT: i64 = 97;
        pub(in crate::seccomp) const SETRLIMIT: i64 = 160;
        pub(in crate::seccomp) const SYNC_FILE_RANGE: i64 = 277;
    }
    #[cfg(target_arch = "aarch64")]
    mod own {
        pub(in crate::seccomp) const GETRLIMIT: i64 = 163;
        pub(in crate::seccomp) const SETRLIMIT: i64 = 164;
        pub(in crate::seccomp) const SYNC_FILE_RANGE: i64 = 84;
    }
    pub(in crate::seccomp) use own::*;
    // New calls have one number on every architecture.
    pub(super) const CACHESTAT: i64 = 451;
    pub(super) const FCHMODAT2: i64 = 452;
    pub(super) const MAP_SHADOW_STACK: i64 = 453;
    pub(super) const FUTEX_WAKE: i64 = 454;
    pub(super) const FUTEX_WAIT: i64 = 455;
    pub(super) const FUTEX_REQUEUE: i64 = 456;
    pub(super) const MSEAL: i64 = 462;
    pub(super) const SETXATTRAT: i64 = 463;
    pub(super) const GETXATTRAT: i64 = 464;
    pub(super) const LISTXATTRAT: i64 = 465;
    pub(super) const REMOVEXATTRAT: i64 = 466;
}

/// Answered with success or the kernel's own judgement.
pub(super) const ALLOWED: &[&[i64]] =
    &[FILES, CONTENT, WAITING, MEMORY, PROCESSES, IDENTITY, SCHEDULING, SIGNALS_AND_TIME, SOCKETS, IPC, SELF_RESTRAINT, OLD];

/// Answered with EPERM.
pub(super) const REFUSED: &[&[i64]] =
    &[MOUNTS_AND_NAMESPACES, KERNEL, SHARED_MACHINERY, FILE_HANDLES, MACHINE, MACHINE_OLD];

/// Names, attributes and directories. `mknod` stays for FIFOs: the kernel refuses devices. `chroot` is used by
/// package tools and gives nothing that the sandbox's root does not have.
const FILES: &[i64] = &[
    SYS_openat, SYS_openat2, SYS_close, SYS_close_range, SYS_dup, SYS_dup3, SYS_fcntl, SYS_ioctl, SYS_flock,
    SYS_newfstatat, SYS_fstat, SYS_statx, SYS_statfs, SYS_fstatfs, SYS_faccessat, SYS_faccessat2, SYS_readlinkat,
    SYS_mkdirat, SYS_mknodat, SYS_linkat, SYS_symlinkat, SYS_unlinkat, SYS_renameat2, SYS_getdents64,
    SYS_chdir, SYS_fchdir, SYS_getcwd, SYS_chroot, SYS_umask, SYS_fchmod, SYS_fchmodat, number::FCHMODAT2,
    SYS_fchown, SYS_fchownat, SYS_utimensat, SYS_truncate, SYS_ftruncate,
    SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr,
    SYS_listxattr, SYS_llistxattr, SYS_flistxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr,
    number::SETXATTRAT, number::GETXATTRAT, number::LISTXATTRAT, number::REMOVEXATTRAT,
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
];

/// Reading, writing and flushing.
const CONTENT: &[i64] = &[
    SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev, SYS_preadv2,
    SYS_pwritev2, SYS_lseek, SYS_sendfile, SYS_splice, SYS_tee, SYS_vmsplice, SYS_copy_file_range, SYS_fallocate,
    SYS_fadvise64, SYS_readahead, number::CACHESTAT, SYS_sync, SYS_syncfs, SYS_fsync, SYS_fdatasync,
    number::SYNC_FILE_RANGE, SYS_pipe2, SYS_memfd_create,
];

/// Waiting for events.
const WAITING: &[i64] = &[
    SYS_ppoll, SYS_pselect6, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2, SYS_eventfd2,
    SYS_signalfd4, SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime,
    SYS_futex, SYS_futex_waitv, number::FUTEX_WAKE, number::FUTEX_WAIT, number::FUTEX_REQUEUE,
    SYS_set_robust_list, SYS_get_robust_list, SYS_restart_syscall,
];

/// A process's own memory. Placement on nodes may be read, not chosen.
const MEMORY: &[i64] = &[
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect, SYS_madvise, SYS_process_madvise, SYS_msync, SYS_mincore,
    SYS_mlock, SYS_mlock2, SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_remap_file_pages, SYS_membarrier,
    SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_get_mempolicy, number::MAP_SHADOW_STACK, number::MSEAL,
];

/// Starting, ending, waiting for and debugging processes. `ptrace`, `process_vm_*`, `kcmp` and `pidfd_getfd` are what
/// debuggers need; the kernel lets them reach only processes of the same user with no more capabilities, which inside
/// its own pid namespace are the sandbox's. (The filter holds for a traced process too, since Linux 4.8.)
const PROCESSES: &[i64] = &[
    SYS_clone, SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_set_tid_address,
    SYS_getpid, SYS_getppid, SYS_gettid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid,
    SYS_prctl, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp,
    SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pidfd_getfd, SYS_process_mrelease, SYS_rseq, SYS_personality,
];

/// Users, groups, capabilities, limits: within the sandbox's own ids and bounding set.
const IDENTITY: &[i64] = &[
    SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid, SYS_getgroups,
    SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setfsuid, SYS_setfsgid,
    SYS_setgroups, SYS_capget, SYS_capset, number::GETRLIMIT, number::SETRLIMIT, SYS_prlimit64, SYS_getrusage,
    SYS_uname, SYS_sysinfo, SYS_getrandom,
];

/// Priorities and processors; the control group bounds what they can take.
const SCHEDULING: &[i64] = &[
    SYS_sched_yield, SYS_sched_getparam, SYS_sched_setparam, SYS_sched_getscheduler, SYS_sched_setscheduler,
    SYS_sched_get_priority_max, SYS_sched_get_priority_min, SYS_sched_rr_get_interval, SYS_sched_getaffinity,
    SYS_sched_setaffinity, SYS_sched_getattr, SYS_sched_setattr, SYS_getcpu, SYS_getpriority, SYS_setpriority,
    SYS_ioprio_get, SYS_ioprio_set,
];

/// Signals and clocks. The clocks can be read; `adjtimex` is a query for whoever may not set them.
const SIGNALS_AND_TIME: &[i64] = &[
    SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigpending, SYS_rt_sigreturn,
    SYS_rt_sigsuspend, SYS_rt_sigtimedwait, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_sigaltstack,
    SYS_nanosleep, SYS_clock_nanosleep, SYS_clock_gettime, SYS_clock_getres, SYS_gettimeofday, SYS_adjtimex,
    SYS_clock_adjtime, SYS_getitimer, SYS_setitimer, SYS_times,
    SYS_timer_create, SYS_timer_delete, SYS_timer_gettime, SYS_timer_settime, SYS_timer_getoverrun,
];

/// Sockets of the families that the stages before let pass.
const SOCKETS: &[i64] = &[
    SYS_socket, SYS_socketpair, SYS_bind, SYS_listen, SYS_accept, SYS_accept4, SYS_connect, SYS_shutdown,
    SYS_getsockname, SYS_getpeername, SYS_getsockopt, SYS_setsockopt,
    SYS_sendto, SYS_recvfrom, SYS_sendmsg, SYS_recvmsg, SYS_sendmmsg, SYS_recvmmsg,
];

/// System V and POSIX objects, which live in the sandbox's own ipc namespace.
const IPC: &[i64] = &[
    SYS_shmget, SYS_shmat, SYS_shmdt, SYS_shmctl, SYS_semget, SYS_semop, SYS_semtimedop, SYS_semctl,
    SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl,
    SYS_mq_open, SYS_mq_unlink, SYS_mq_timedsend, SYS_mq_timedreceive, SYS_mq_notify, SYS_mq_getsetattr,
];

/// With these a program can only give up more.
const SELF_RESTRAINT: &[i64] =
    &[SYS_seccomp, SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self];

/// Calls that newer architectures no longer have, each with a successor above.
#[cfg(target_arch = "x86_64")]
const OLD: &[i64] = &[
    SYS_open, SYS_creat, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_mkdir, SYS_rmdir, SYS_mknod, SYS_link,
    SYS_symlink, SYS_unlink, SYS_rename, SYS_renameat, SYS_getdents, SYS_chmod, SYS_chown, SYS_lchown, SYS_utime,
    SYS_utimes, SYS_futimesat, SYS_dup2, SYS_pipe, SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait,
    SYS_eventfd, SYS_signalfd, SYS_inotify_init, SYS_fork, SYS_vfork, SYS_getpgrp, SYS_alarm, SYS_pause, SYS_time,
    SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[SYS_renameat];

/// The tree and the namespaces are given from outside.
const MOUNTS_AND_NAMESPACES: &[i64] = &[
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount,
    SYS_fspick, SYS_mount_setattr, SYS_unshare, SYS_setns, SYS_sethostname, SYS_setdomainname,
];

/// Code and programs in the kernel, and views into it.
const KERNEL: &[i64] = &[
    SYS_bpf, SYS_perf_event_open, SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, SYS_syslog,
    SYS_lookup_dcookie,
];

/// Machinery with a history of ways out (io_uring also runs calls past this filter; userfaultfd makes races easy to
/// win), and key rings, which know no sandbox.
const SHARED_MACHINERY: &[i64] = &[
    SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register, SYS_userfaultfd,
    SYS_add_key, SYS_request_key, SYS_keyctl, SYS_fanotify_init, SYS_fanotify_mark,
];

/// Opening by handle passes by every directory permission; a handle is of no other use.
const FILE_HANDLES: &[i64] = &[SYS_name_to_handle_at, SYS_open_by_handle_at];

/// The machine as a whole: clock, power, swap, accounting, quotas, terminals, memory nodes.
const MACHINE: &[i64] = &[
    SYS_settimeofday, SYS_clock_settime, SYS_reboot, SYS_swapon, SYS_swapoff, SYS_acct, SYS_quotactl,
    SYS_quotactl_fd, SYS_vhangup, SYS_mbind, SYS_set_mempolicy, SYS_migrate_pages, SYS_move_pages,
];
#[cfg(target_arch = "x86_64")]
const MACHINE_OLD: &[i64] = &[SYS_iopl, SYS_ioperm, SYS_kexec_file_load];
#[cfg(not(target_arch = "x86_64"))]
const MACHINE_OLD: &[i64] = &[];
