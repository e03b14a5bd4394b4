"""What a trace looks like in a terminal: lines of styled text, for the commands and the console sender."""
