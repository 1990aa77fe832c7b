// This file lets fork.go declare functions without bodies, which are the runtime's.
