"""The operators: one a file, with its checks, its plan, what it saves, and its public function."""
