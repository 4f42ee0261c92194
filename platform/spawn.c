/*
 * spawn.c - level 2: programs that olla starts (platform.h).
 *
 * Invariants:
 *  - nothing here waits: not for the program, not for its output;
 *  - a program holds none of olla's descriptors, has no terminal, and finds
 *    signals as they are by default;
 *  - it is the leader of a session of its own, so that all it has started can
 *    be ended with it.
 *
 * May include: platform.h, posix.h and system headers.
 */
#include "posix.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_FD (STDERR_FILENO + 1)
#define ENV_MAX   24

/* What a program gets of olla's environment: in the rest there may be secrets. */
static const char *const passed_on[] = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "SSH_AUTH_SOCK"};

/* Their values; the memory is static because nobody else may be told of it before the next call. */
static void make_environment(const char *const own[], char *env[ENV_MAX])
{
    static char mem[4096];
    size_t used = 0, n = 0;

    for (size_t i = 0; i < OLLA_COUNT(passed_on); i++) {
        const char *value = getenv(passed_on[i]);
        const char *rest = strcmp(passed_on[i], "PATH") == 0 ? "/usr/sbin:/usr/bin:/sbin:/bin" : NULL;
        value = value ? value : rest;
        int need = value ? snprintf(mem + used, sizeof(mem) - used, "%s=%s", passed_on[i], value) : -1;
        if (need >= 0 && (size_t)need < sizeof(mem) - used) {
            env[n++] = mem + used;
            used += (size_t)need + 1;
        }
    }
    for (size_t i = 0; own[i] && n < ENV_MAX - 1; i++) {
        env[n++] = (char *)(uintptr_t)own[i];
    }
    env[n] = NULL;
}

/* In the child. Descriptors that whoever started olla left open go, too. */
static void leave_nothing_open(int output)
{
    long most = sysconf(_SC_OPEN_MAX);

    most = most < 0 || most > 65536 ? 65536 : most;
    if (output != OUTPUT_FD && dup2(output, OUTPUT_FD) == -1) {
        _exit(126);
    }
    for (int i = 0; i < (int)most; i++) {
        if (i != OUTPUT_FD) {
            (void)close(i);
        }
    }
    (void)open("/dev/null", O_RDWR);
    (void)dup2(OUTPUT_FD, STDOUT_FILENO);
    (void)dup2(OUTPUT_FD, STDERR_FILENO);
    (void)close(OUTPUT_FD);
}

static void run(const char *const argv[], char *const env[], int output)
{
    static const int ours[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGPIPE, SIGXFSZ, SIGCHLD};
    struct sigaction act = {.sa_handler = SIG_DFL};
    sigset_t none;

    sigemptyset(&act.sa_mask);
    for (size_t i = 0; i < OLLA_COUNT(ours); i++) {
        (void)sigaction(ours[i], &act, NULL);
    }
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)setsid();
    leave_nothing_open(output);
    (void)execve(argv[0], (char *const *)(uintptr_t)argv, env);
    (void)dprintf(STDERR_FILENO, "cannot be started: %s\n", strerror(errno));
    _exit(127);
}

int plat_program_start(const char *const argv[], const char *const own[], struct plat_program *out)
{
    char *env[ENV_MAX];
    int ends[2];
    sigset_t all, before;

    if (pipe(ends) == -1) {
        return plat_fail(errno);
    }
    if (!plat_set_flags(ends[0]) || fcntl(ends[1], F_SETFD, FD_CLOEXEC) == -1) {
        (void)close(ends[1]);
        return plat_fail_closing(ends[0]);
    }
    make_environment(own, env);
    /* None of the parent's handlers may run in the child. */
    sigfillset(&all);
    (void)sigprocmask(SIG_SETMASK, &all, &before);
    pid_t pid = fork();
    if (pid == 0) {
        run(argv, env, ends[1]);
    }
    int err = errno;
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    (void)close(ends[1]);
    if (pid == -1) {
        (void)close(ends[0]);
        return plat_fail(err);
    }
    *out = (struct plat_program){.pid = (long)pid, .fd = ends[0]};
    return OLLA_OK;
}

int plat_program_ended(const struct plat_program *p, int *code)
{
    int status = 0;
    pid_t got = waitpid((pid_t)p->pid, &status, WNOHANG);

    if (got == 0) {
        return OLLA_AGAIN;
    }
    /* -1: where SIGCHLD is ignored nobody can know how it ended. */
    *code = got == -1 ? 125 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return OLLA_OK;
}

void plat_program_end(const struct plat_program *p, bool now)
{
    /* The group may not be there yet: then it is the program alone. */
    if (kill(-(pid_t)p->pid, now ? SIGKILL : SIGTERM) == -1) {
        (void)kill((pid_t)p->pid, now ? SIGKILL : SIGTERM);
    }
}
