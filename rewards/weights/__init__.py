"""Where weights come from; a file is used only after its sha256 was found right."""
