"""What several test modules share: strategies, tiny data sets, models and archives."""
