"""The cases, by what of the client they use."""
