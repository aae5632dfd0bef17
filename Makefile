# make demo | make docs | make test | make lint | make sanitize | make wheels: each makes .venv on first use and installs what it needs, once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NATIVE := CMakeLists.txt setup.py build_backend.py pyproject.toml $(shell find csrc -type f)

.PHONY: demo docs test lint sanitize wheels clean

demo: $(VENV)/.installed
	$(BIN)/fastrpn demo --output demo

# The site, in build/site.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

# Two processes share the test files; their threads wait without spinning.
PYTEST_ARGS ?= -n 2
test: $(VENV)/.installed
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	PATH="$(abspath $(BIN)):$$PATH" pre-commit run --all-files

# SECONDS: for all fuzzers together. SANITIZE_ARGS=--skip-missing leaves out what a missing tool would run.
SECONDS ?= 300
WHEEL_ARCHS ?= 75-real;80-real;86-real;89-real;90-real;100-real;120
sanitize: $(VENV)/.installed
	$(BIN)/python tests/native/sanitize.py --seconds $(SECONDS) $(SANITIZE_ARGS)

# An sdist and a wheel for other machines, in dist/. torch's libraries stay outside: the user's torch has them.
wheels: $(VENV)/.installed
	FASTRPN_CUDA_ARCHS="$(WHEEL_ARCHS)" $(BIN)/python -m build --outdir dist/built
	$(BIN)/python -m auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --wheel-dir dist dist/built/*.whl
	cp dist/built/*.tar.gz dist/
	rm -r dist/built

# Torch comes first and by itself: the build then finds it and downloads no second one.
$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "fastrpn needs Python 3.10 or newer: make PYTHON=python3.x"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install torch torchvision
	touch $@

$(VENV)/.installed: $(VENV)/.torch $(NATIVE)
	$(BIN)/python -m pip install --editable '.[all,test]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --editable '.[dev]'
	touch $@

clean:
	rm -rf build dist demo *.egg-info fastrpn/*.so fastrpn/include fastrpn/share
