"""The tests as a package: flow_matching installs one of the same name, which would stand before a plain folder."""
