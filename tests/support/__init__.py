"""What tests share: programs, servers that misbehave, fakes of the network, spans."""
