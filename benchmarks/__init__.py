"""Benchmarks: the lake's own code against the obvious ways and against peers, same work or no time. See docs."""
