"""Full configurations by name: what README and RESULTS cite."""
