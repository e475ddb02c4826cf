"""Breaks the CUDA kernels in small ways and counts how many of the breakages the emulated verification notices.

    python -m buildtools.mutation --count 60 --seed 1

A mutant is one edit at one place of one kernel source. The tool compiles what the edit affects, runs the verification
cases of the operators concerned on the emulator, and prints who survived. A survivor is a gap in the cases or in the
checker, or an edit that changes nothing that counts: those are listed, with the reason, in equivalent.py.
"""
