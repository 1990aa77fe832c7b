package server

import "berth/engine"

// linkNames are further names that lists show of linked containers, by their IDs: for a link
// on the default bridge /USER/ALIAS, as Docker has done from its first days.
func (s *Server) linkNames() map[string][]string {
	out := map[string][]string{}
	for _, c := range s.Containers.List() {
		if !c.HostConfig.NetworkMode.IsBridge() {
			continue
		}
		for _, l := range c.HostConfig.Links {
			target, alias := engine.SplitLink(l)
			if t, err := s.Containers.Get(target); err == nil {
				out[t.ID] = append(out[t.ID], "/"+c.Name+"/"+alias)
			}
		}
	}
	return out
}
