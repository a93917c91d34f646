"""The probes: a file per group of capabilities; each does the thing on a scratch mapping and looks at the result."""
