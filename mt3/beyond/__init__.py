"""What MT3 does not have: extras that weights or users ask for; see README.md."""
