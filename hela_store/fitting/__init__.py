"""From a labelled folder to masks and a report in one call: every stage in turn, each by its own public function."""
