"""What Entra and Key Vault share: calls of Microsoft's cloud, and where it is. It needs the extra `azure`."""
