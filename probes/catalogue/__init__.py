"""What fault codes mean and what to do about them: tables with a source and a date per entry."""
