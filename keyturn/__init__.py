"""The core of Keyturn: contracts, policy, the model boundary and the job store. It knows no Temporal."""
