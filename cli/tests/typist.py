"""Runs a program at a terminal: first how many of the arguments are its command, then the command, then what to wait for
and what to type then, in turn; \x03 is Ctrl-C. Prints what the terminal showed, and whether it echoes at the end."""

import os, pty, sys, termios
count = int(sys.argv[1])
program, words = sys.argv[2:2 + count], iter(sys.argv[2 + count:])
pid, terminal = pty.fork()
if pid == 0:
    os.execv(program[0], program)
shown, seen = b"", 0
try:
    for wanted, typed in zip(words, words):
        while wanted.encode() not in shown[seen:]:
            shown += os.read(terminal, 1024)
        seen = len(shown)
        os.write(terminal, typed.encode() + (b"" if typed == "\x03" else b"\n"))
    while True:
        shown += os.read(terminal, 1024)
except OSError:
    pass
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
echoes = termios.tcgetattr(terminal)[3] & termios.ECHO
sys.stdout.buffer.write(shown + (b"\nechoes" if echoes else b"\nsilent"))
sys.exit(code)
