"""What tests are made of: cases, servers, stand-ins, and the recorders of what the repository keeps."""
