# Two commands for a newcomer: `make demo` and `make test`. Both install what is missing first (Debian packages; root
# or sudo), build into build/, and need nothing else but the CUDA toolkit.
BUILD ?= build
JOBS ?= $(shell nproc)

.PHONY: all program demo test setup clean

all: program

setup:
	@tools/setup.sh

program: setup
	@cmake -S . -B $(BUILD) -G Ninja -DSHUNT_TESTS=$(if $(TESTS),ON,OFF) >$(BUILD).log 2>&1 || { cat $(BUILD).log; exit 1; }
	@mv $(BUILD).log $(BUILD)/configure.log
	@cmake --build $(BUILD) --target shunt -j $(JOBS)

demo: program
	$(BUILD)/shunt run examples/storyteller --target cpu -p "It was a dark night, and" -n 120

test: setup
	@cmake -S . -B $(BUILD) -G Ninja -DSHUNT_TESTS=ON -DSHUNT_WERROR=ON
	@cmake --build $(BUILD) -j $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure -LE "gpu|multi"

clean:
	rm -rf $(BUILD)
