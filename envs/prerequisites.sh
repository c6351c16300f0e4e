# Name, in one line, what is missing on this machine to install and run the workflow.
python="$1"
missing=""
command -v "$python" > /dev/null 2>&1 || missing="$missing, Python 3.11 (as $python; or: make PYTHON=/path/to/python3.11)"
command -v git > /dev/null 2>&1 || missing="$missing, git"
command -v c++ > /dev/null 2>&1 || command -v g++ > /dev/null 2>&1 || missing="$missing, a C++ compiler (c++ or g++)"
if command -v "$python" > /dev/null 2>&1; then
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null ||
        missing="$missing, Python 3.11 ($python is $("$python" -V 2>&1))"
    "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2> /dev/null ||
        missing="$missing, the Python headers (Debian: python3.11-dev)"
    "$python" -c 'import ensurepip, venv' 2> /dev/null || missing="$missing, the venv module (Debian: python3.11-venv)"
fi
if [ -n "$missing" ]; then
    echo "error: missing on this machine: ${missing#, }" >&2
    exit 1
fi
