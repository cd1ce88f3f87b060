"""Run folders: how a run is started, logged, resumed and published, and which run is the default."""
