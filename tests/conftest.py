pytest_plugins = ["tests.servers", "tests.workbenches"]
