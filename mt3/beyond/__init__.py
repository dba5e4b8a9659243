"""What MT3 does not have: extras that are off unless asked for; see README.md."""
