"""The walkthrough: one text, the code it is about, and experiments on the servers it runs on."""
